"""Faults happen where and when they are asked for, and else never."""

import signal

import pytest

from imagen_jax.core import errors, faults


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
  monkeypatch.setattr(faults, "_passed", {})
  monkeypatch.delenv(faults.VARIABLE, raising=False)


def test_no_fault_runs_by_default(monkeypatch):
  def forbidden(*_):
    raise AssertionError("a point did something")

  monkeypatch.setattr(faults, "parse", forbidden)
  for name in ("after_step", "loader", "save.before_commit"):
    faults.point(name)
  assert not faults._passed


def test_a_fault_happens_at_its_point_and_time_alone(monkeypatch):
  monkeypatch.setenv(faults.VARIABLE, "raise@save.before_commit:3")
  for _ in range(2):
    faults.point("save.before_commit")
    faults.point("save")
  with pytest.raises(faults.Fault, match="save.before_commit:3"):
    faults.point("save.before_commit")
  faults.point("save.before_commit")


def test_without_a_number_it_is_the_first_time(monkeypatch):
  monkeypatch.setenv(faults.VARIABLE, "raise@eval")
  with pytest.raises(faults.Fault):
    faults.point("eval")


@pytest.mark.parametrize(
  ("action", "number"), [("kill", signal.SIGKILL), ("sigterm", signal.SIGTERM)]
)
def test_signals_go_to_this_process(monkeypatch, action, number):
  sent = []
  monkeypatch.setattr(faults.os, "getpid", lambda: 7)
  monkeypatch.setattr(faults.os, "kill", lambda *what: sent.append(what))
  monkeypatch.setenv(faults.VARIABLE, f"{action}@eval")
  faults.point("eval")
  assert sent == [(7, number)]


@pytest.mark.parametrize("text", ["kill", "die@eval", "kill@eval:0", "@eval"])
def test_what_cannot_be_read_is_an_error_with_an_example(monkeypatch, text):
  monkeypatch.setenv(faults.VARIABLE, text)
  with pytest.raises(errors.BadInput, match="kill@after_step:3.*sleep"):
    faults.point("eval")
