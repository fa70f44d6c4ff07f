"""What `imagen train` hands on, and what its help promises."""

import pytest

from imagen_jax.cli import train
from imagen_jax.core import errors

LINE = ["--config=configs/demo.py:base,runlocal", "--workdir=runs/x"]


@pytest.fixture
def called(monkeypatch):
  calls = {}
  monkeypatch.setattr(
    train.processes, "join", lambda *given: calls.update(join=given)
  )

  def build_train(config, workdir, **given):
    calls.update(given, workdir=workdir, steps=config.train.steps)

  monkeypatch.setattr(train.build_training, "train", build_train)
  return calls


def test_by_default_it_is_one_process_that_allows_nothing(called, capsys):
  train.run(LINE)
  assert called == {
    "join": (None, None, None),
    "workdir": "runs/x",
    "steps": 2,
    "allow_change": [],
    "allow_dtype_cast": False,
    "watchdog_minutes": None,
  }
  assert "runs/x" in capsys.readouterr().out


def test_every_flag_is_handed_on(called):
  train.run(
    [
      *LINE,
      *("--allow_change=optimizer", "--allow_change=hashes.data"),
      *("--allow_dtype_cast", "--watchdog_minutes=0.5"),
      *("--coordinator=a:1", "--process_id=1", "--num_processes=2"),
    ]
  )
  assert called["join"] == ("a:1", 1, 2)
  assert called["allow_change"] == ["optimizer", "hashes.data"]
  assert called["allow_dtype_cast"] and called["watchdog_minutes"] == 0.5


def test_the_help_has_every_exit_code(capsys):
  with pytest.raises(SystemExit) as stop:
    train.run(["--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  kinds = errors.ImagenError.__subclasses__()
  for code in {0, 1, 6, *(kind.exit_code for kind in kinds)}:
    assert f"\n  {code:<3} " in text, code


def test_flags_that_are_not_numbers_are_refused(called):
  for flag in ("--watchdog_minutes=soon", "--process_id=first"):
    with pytest.raises(errors.BadInput, match=flag.partition("=")[0]):
      train.run([*LINE, flag])
  assert not called
