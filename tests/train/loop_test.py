"""The loop stops, resumes and refuses as it promises."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from imagen_jax.core import errors, files, tree
from imagen_jax.train import preemption, profiler
from tests.train import tiny_run
from tests.train.tiny_run import Noise, train


def logged(workdir):
  return [row["step"] for row in files.read_jsonl(workdir / "metrics.jsonl")]


def test_a_run_in_two_halves_is_the_run_in_one_to_the_bit(tmp_path):
  whole = train(tmp_path / "whole", 4)
  train(tmp_path / "halves", 2)
  resumed = train(tmp_path / "halves", 4)
  other = train(tmp_path / "other", 3)
  pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True)
  assert all(np.array_equal(a, b) for a, b in pairs)
  assert logged(tmp_path / "halves") == [1, 2, 3, 4]
  different = zip(
    jax.tree.leaves(whole.params), jax.tree.leaves(other.params), strict=True
  )
  assert not all(np.array_equal(a, b) for a, b in different)


def test_steps_logged_after_the_checkpoint_are_logged_once(tmp_path):
  train(tmp_path, 2)
  files.append_jsonl(tmp_path / "metrics.jsonl", {"step": 3, "loss": 0.0})
  train(tmp_path, 4)
  assert logged(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_nan_in_a_batch_never_reaches_a_checkpoint(tmp_path, at):
  def poison(step, batch):
    if step == at:
      batch["image"][1, 0, 0, 0] = np.nan
    return batch

  with pytest.raises(errors.NonFinite, match=f"not finite at step {at + 1}"):
    train(tmp_path, 6, source=Noise(poison), checkpoint_every=1)
  bad = json.loads((tmp_path / "bad_batch.json").read_text())
  assert bad["step"] == at + 1 and bad["metrics"]["loss"] == "nan"
  assert bad["examples"]["key"][1] == f"{at}:1"
  assert bad["rows_not_finite"] == [1]
  last = list(files.read_jsonl(tmp_path / "events.jsonl"))[-1]
  assert (last["event"], last["code"]) == ("exit", 3)
  saved = [p.name for p in (tmp_path / "checkpoints").glob("[0-9]")]
  assert sorted(saved) == [str(n) for n in range(1, at + 1)][-3:]
  if at:
    good = train(tmp_path, at)
    assert int(good.step) == at
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))


def test_sigterm_commits_a_checkpoint_and_asks_to_be_started_again(tmp_path):
  def stop(step, batch):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  with pytest.raises(errors.StopRequested, match=r"step 3 of 9"):
    train(tmp_path, 9, source=Noise(stop))
  assert errors.StopRequested.exit_code == 42
  events = [row["event"] for row in files.read_jsonl(tmp_path / "events.jsonl")]
  assert events[-3:] == ["save", "preempt", "exit"]
  straight = train(tmp_path / "straight", 4)
  resumed = train(tmp_path, 4)
  np.testing.assert_array_equal(
    tree.flatten(resumed.params)["head/kernel"],
    tree.flatten(straight.params)["head/kernel"],
  )


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
  train(tmp_path, 2)
  wider = dataclasses.replace(
    tiny_run.STAGE, module=tiny_run.Pointwise(width=5)
  )
  with pytest.raises(errors.BadInput, match=r"differ.*hidden/bias: \(4,\)"):
    train(tmp_path, 4, stage=wider)


def test_evaluators_are_called_at_their_steps_and_logged(tmp_path):
  @dataclasses.dataclass
  class Counter:
    every: int = 2

    def __call__(self, state, step, workdir):
      return {"seen": float(state.step)}

  train(tmp_path, 3, evaluators=[Counter()])
  rows = files.read_jsonl(tmp_path / "metrics.jsonl")
  assert [(r["step"], r["seen"]) for r in rows if "seen" in r] == [
    (2, 2.0),
    (3, 3.0),
  ]


def test_numbers_and_evaluations_of_a_step_are_one_row(tmp_path):
  @dataclasses.dataclass
  class Counter:
    every: int = 1

    def __call__(self, state, step, workdir):
      return {"seen": float(state.step)}

  train(tmp_path, 3, evaluators=[Counter()])
  rows = list(files.read_jsonl(tmp_path / "metrics.jsonl"))
  assert [(row["step"], row["seen"]) for row in rows] == [
    (1, 1),
    (2, 2),
    (3, 3),
  ]
  assert all(row["loss"] > 0 and row["updates"] == row["step"] for row in rows)


def test_events_tell_the_life_of_a_run(tmp_path):
  train(tmp_path, 2)
  train(tmp_path, 4)
  events = list(files.read_jsonl(tmp_path / "events.jsonl"))
  life = ["compile", "save", "exit"]
  assert [e["event"] for e in events] == [
    *("start", *life),
    *("start", "restore", *life),
  ]
  assert [e["step"] for e in events] == [0, 0, 2, 2, 2, 2, 2, 4, 4]
  assert events[-1]["code"] == 0 and events[1]["seconds"] >= 0


def test_what_stops_a_run_is_its_last_event(tmp_path):
  def fail(step, batch):
    raise OSError("the disk is gone")

  with pytest.raises(OSError, match="gone"):
    train(tmp_path, 2, source=Noise(fail))
  last = list(files.read_jsonl(tmp_path / "events.jsonl"))[-1]
  assert last["code"] == 1 and last["reason"] == "OSError: the disk is gone"


def test_a_second_sigterm_is_noted_as_well_and_then_none():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.StopSignal() as stop:
    assert not stop.reached(1)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reached(2)
  assert signal.getsignal(signal.SIGTERM) is before


def test_steps_are_traced_from_within_the_loop(tmp_path):
  seen = []

  class Trace(profiler.Profiler):
    def before(self, step):
      seen.append(("before", step))

    def after(self, step, state):
      seen.append(("after", int(state.step)))

    def close(self):
      seen.append(("close", 0))

  trace = Trace(tmp_path, first=1, count=1, last=2)
  train(tmp_path, 2, profiler=trace)
  assert seen == [
    *[("before", 1), ("after", 1), ("before", 2), ("after", 2)],
    ("close", 0),
  ]
