"""The account of runs whose every second is known, killed here and there."""

import numpy as np
import pytest

from imagen_jax.core import errors, files
from imagen_jax.train import clock, goodput

STEP, WAIT, SAVE, EVALUATE = 2.0, 0.1, 0.5, 3.0
START, RESTORE, COMPILE, DOWN = 8.0, 5.0, 20.0, 60.0
LOG, CHECKPOINT, EVALUATION = 5, 10, 20


class Run:
  """A run of steps, as the loop would log it, on a clock of its own."""

  def __init__(self, steps):
    self.steps, self.now, self.saved = steps, 1e9, 0
    self.events, self.rows = [], []
    self.starts = 0
    self.truth = dict.fromkeys(goodput.KINDS, 0.0)
    self.done = []  # (step, seconds) of each step that was ever done

  def spend(self, kind, seconds):
    self.now += seconds
    self.truth[kind] += seconds

  def event(self, kind, step, **more):
    self.events.append({"event": kind, "step": step, "time": self.now} | more)

  def attempt(self, kill_after=None):
    """From the last save to the end, or killed after so many steps."""
    self.starts += 1
    self.event("start", self.saved)
    self.spend("other", START)
    if self.saved:
      self.spend("restore", RESTORE)
      self.event("restore", self.saved, seconds=RESTORE)
    first = self.saved
    self.spend("compile", COMPILE)
    self.event("compile", first, seconds=COMPILE)
    waits = dict.fromkeys(clock.WAITS, 0.0)
    for step in range(first + 1, self.steps + 1):
      self.now += STEP
      self.done.append(step)
      self.spend("data_wait", WAIT)
      waits["data_wait"] += WAIT
      if step % EVALUATION == 0:
        self.spend("evaluate", EVALUATE)
        waits["evaluate"] += EVALUATE
      if step % LOG == 0 or step == self.steps:
        row = {f"{kind}_s": seconds for kind, seconds in waits.items()}
        where = {"step": step, "time": self.now, "attempt": self.starts}
        self.rows.append(where | row)
        waits = dict.fromkeys(clock.WAITS, 0.0)
      if step % CHECKPOINT == 0:
        self.spend("save", SAVE)
        waits["save"] += SAVE
        self.event("save", step, seconds=1.0)
        self.saved = step
      if step - first == kill_after:
        self.spend("down", DOWN)
        return
    self.event("exit", self.steps, reason="done")

  def account(self):
    """The truth: of a step done twice the last time is the one that counts."""
    steps = len(set(self.done))
    self.truth["productive"] = steps * STEP
    self.truth["recomputed"] = (len(self.done) - steps) * STEP
    return self.truth, goodput.account(self.events, self.rows)


def check(run, *, tolerance):
  truth, found = run.account()
  wall = sum(truth.values())
  np.testing.assert_allclose(found.wall, wall, rtol=1e-6)
  for kind in goodput.KINDS:
    np.testing.assert_allclose(
      found.seconds[kind], truth[kind], atol=tolerance * wall, err_msg=kind
    )
  return found


def test_a_run_without_a_kill_is_known_to_the_second():
  run = Run(50)
  run.attempt()
  found = check(run, tolerance=0.01)
  assert (found.steps_kept, found.steps_lost, found.starts) == (50, 0, 1)
  # 50 steps of 2 s; five saves, the last of them after the last row.
  np.testing.assert_allclose(found.seconds["productive"], 100.0)
  np.testing.assert_allclose(found.seconds["data_wait"], 5.0)
  np.testing.assert_allclose(found.seconds["save"], 2.0)


def test_steps_after_the_last_save_are_recomputed():
  run = Run(100)
  run.attempt(kill_after=45)
  run.attempt()
  found = check(run, tolerance=0.01)
  assert (found.steps_kept, found.steps_lost) == (100, 5)
  np.testing.assert_allclose(found.seconds["recomputed"], 10.0, rtol=0.05)
  np.testing.assert_allclose(found.seconds["down"], DOWN, rtol=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_ten_kills_are_accounted_for_within_a_hundredth(seed):
  draw = np.random.default_rng(seed)
  run = Run(400)
  for _ in range(10):
    # Seen to be dead at its last row, as that is what its files tell.
    run.attempt(kill_after=5 * int(draw.integers(0, 8)) or None)
    if run.saved == run.steps:
      break
  else:
    run.attempt()
  check(run, tolerance=0.01)


def test_a_clock_set_back_between_two_starts_hides_the_pause_alone():
  run = Run(100)
  run.attempt(kill_after=45)
  run.now -= 110.0
  run.truth["down"] = 0.0
  run.attempt()
  starts = [e["time"] for e in run.events if e["event"] == "start"]
  assert starts[1] < run.rows[8]["time"] < run.rows[-1]["time"]
  check(run, tolerance=0.01)
  for row in run.rows:  # as versions before wrote them
    del row["attempt"]
  seconds = goodput.account(run.events, run.rows).seconds
  assert min(seconds.values()) >= 0.0


def test_a_later_start_from_further_back_loses_more():
  events = [
    {"event": "start", "step": 0, "time": 0.0},
    {"event": "save", "step": 90, "time": 90.0},
    {"event": "damaged", "step": 90, "time": 100.0},
    {"event": "restore", "step": 30, "time": 101.0},
    {"event": "exit", "step": 50, "time": 121.0, "reason": "done"},
  ]
  rows = [{"step": 80, "time": 80.0}, {"step": 50, "time": 121.0}]
  found = goodput.account(events, rows)
  assert (found.steps_kept, found.steps_lost, found.starts) == (50, 60, 2)
  np.testing.assert_allclose(found.seconds["productive"], 90 * 30 / 90 + 20)
  np.testing.assert_allclose(found.seconds["recomputed"], 60.0)
  np.testing.assert_allclose(found.seconds["down"], 10.0)


def test_a_pause_after_a_run_was_done_does_not_count():
  run = Run(10)
  run.attempt()
  run.now, run.steps = run.now + 1e6, 20
  run.attempt()
  _, found = run.account()
  assert found.seconds["down"] == 0.0 and found.wall < 1000
  assert found.steps_kept == 20


def test_a_start_that_did_no_step_is_all_other_than_productive():
  events = [
    {"event": "start", "step": 0, "time": 0.0},
    {"event": "exit", "step": 0, "time": 9.0, "reason": "BadInput"},
  ]
  found = goodput.account(events, [])
  assert found.seconds["other"] == found.wall == 9.0
  assert found.share() == 0.0


def test_files_are_read_and_rows_in_both_count_once(tmp_path):
  run = Run(30)
  run.attempt(kill_after=25)
  run.attempt()
  for event in run.events:
    files.append_jsonl(tmp_path / "events.jsonl", event)
  lost = run.rows[4]
  assert lost["step"] == 25
  for row in run.rows:
    files.append_jsonl(tmp_path / "metrics.jsonl", row)
  files.append_jsonl(tmp_path / "metrics_lost.jsonl", lost)
  _, account = run.account()
  assert goodput.read(tmp_path) == account


def test_a_folder_without_events_is_refused(tmp_path):
  with pytest.raises(errors.BadInput, match=r"no events.jsonl in"):
    goodput.read(tmp_path)


def test_the_table_has_every_kind_and_the_wall_time():
  run = Run(50)
  run.attempt()
  _, found = run.account()
  lines = goodput.table(found).splitlines()
  assert [line.split()[0] for line in lines[:-1]] == [*goodput.KINDS, "wall"]
  assert lines[0].split() == [
    "productive",
    "100.0",
    "s",
    f"{found.share():.1%}",
  ]
  assert lines[-1] == "50 steps kept, 0 lost, in 1 start"
