"""A run that diverges goes back, and on without the batches it had seen."""

import dataclasses
import gc
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors, faults, files
from imagen_jax.train import rollback, step_folders
from imagen_jax.train import step as step_lib
from tests.train import processes_test, tiny_run

BAD = range(200, 210)  # batches with a huge loss, that is finite
FIVE = range(200, 205)
STEPS = 220
GIVEN = {
  "log_every": 10,
  "checkpoint_every": 20,
  "keep": 20,
  "max_skipped_in_a_row": 4,
  "rollback_steps": 20,
  "rollback_skip": 10,
}
STEP = jax.jit(
  step_lib.make_train_step(
    tiny_run.STAGE, tiny_run.RULE, ema_decay=0.9, spike_deviations=8.0
  ),
  donate_argnums=0,
)


def poisoned(bad=BAD, seen=None):
  """Batches, those of `bad` with outliers; `seen` gets what was asked for."""

  def disturb(step, batch):
    if seen is not None:
      seen.append(step)
    if step in bad:
      batch["image"] = 1e3 * batch["image"]
    return batch

  return tiny_run.Noise(disturb)


def train(workdir, source, steps=STEPS, **given):
  return tiny_run.train(
    workdir, steps, source=source, train_step=STEP, **GIVEN | given
  )


def happened(workdir, kind):
  events = files.read_jsonl(workdir / "events.jsonl")
  return [event for event in events if event["event"] == kind]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  """A run of 180 steps, with checkpoints at 140, 160 and 180."""
  folder = epath.Path(tmp_path_factory.mktemp("begun"))
  train(folder, poisoned(), 180, keep=3)
  return folder


@pytest.fixture
def workdir(tmp_path, begun):
  """That of a run that has begun."""
  shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
  return epath.Path(tmp_path)


@dataclasses.dataclass(frozen=True)
class Elsewhere:
  """The batches of `place(step)`."""

  place: dict
  fingerprint: str = "noise"

  def batches(self, start):
    for step in itertools.count(start):
      yield next(tiny_run.Noise().batches(self.place.get(step, step)))


def test_a_run_ends_as_one_that_never_saw_the_batches(workdir):
  seen = []
  state = train(workdir, poisoned(seen=seen))
  # The fifth spike in a row is one too many, twice: there are ten.
  assert rollback.read(workdir) == (
    rollback.Rollback(205, 180, 25, True),
    rollback.Rollback(185, 160, 50, True),
  )
  # The step after a spike is under way when the spike is seen.
  assert seen == [*range(180, 206), *range(205, 211), *range(210, 270)]
  place = {n: n + 50 for n in range(160, STEPS)}
  clean = train(workdir / "clean", Elsewhere(place))
  assert tiny_run.digest(state) == tiny_run.digest(clean)
  assert int(state.guard.skipped) == 0


def test_rows_and_events_tell_of_it(workdir):
  train(workdir, poisoned())
  steps = [row["step"] for row in tiny_run.rows(workdir)]
  # A start logs its first step.
  assert steps == [1, *range(10, 161, 10), 161, *range(170, 221, 10)]
  lost = files.read_jsonl(workdir / "metrics_lost.jsonl")
  assert [row["step"] for row in lost] == [181, 190, 200, 170, 180, 181]
  told = happened(workdir, "rollback")
  assert [event["step"] for event in told] == [205, 185]
  assert told[1]["reason"].startswith("back to step 160, skipping 50 batches: ")
  assert [e["step"] for e in happened(workdir, "restore")] == [180, 180, 160]
  assert [e["code"] for e in happened(workdir, "exit")] == [0, 0]


def test_after_the_last_rollback_the_run_ends(workdir):
  def endless():
    return poisoned(range(200, 10_000))

  words = (
    r"at step 145 .* 5 in a row.* 3 of at most 3 times: from step 205 to 180,"
    r" from step 185 to 160, from step 165 to 140\."
  )
  with pytest.raises(errors.NonFinite, match=words):
    train(workdir, endless())
  with pytest.raises(errors.NonFinite, match=words):
    train(workdir, endless())
  codes = [event["code"] for event in happened(workdir, "exit")]
  assert codes == [0, 3, 3] and len(happened(workdir, "rollback")) == 3
  assert step_folders.steps_in(workdir / "checkpoints")[-1] == 140


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"max_rollbacks": 0}, r"0 of at most 0 times\."),
    ({"max_skipped": 3}, "at step 204 4 updates"),
  ],
)
def test_what_is_no_case_for_a_rollback_ends_at_once(workdir, given, words):
  with pytest.raises(errors.NonFinite, match=words):
    train(workdir, poisoned(), **given)
  assert rollback.read(workdir) == ()
  assert happened(workdir, "exit")[-1]["code"] == 3


def test_without_a_checkpoint_there_is_no_going_back(tmp_path):
  with pytest.raises(errors.NonFinite, match="no checkpoint to go back to"):
    train(epath.Path(tmp_path), poisoned(), checkpoint_every=1000)


def test_a_rollback_neither_compiles_again_nor_holds_the_old_state(workdir):
  alive = {}

  def disturb(step, batch):
    if step == 200:
      gc.collect()
      gc.disable()  # what goes is to go by itself
    if step in (201, 206):  # before and after
      alive[step] = sum(x.nbytes for x in jax.live_arrays())
    return poisoned(FIVE).disturb(step, batch)

  try:
    train(workdir, tiny_run.Noise(disturb))
  finally:
    gc.enable()
  assert len(rollback.read(workdir)) == 1
  assert alive[206] <= alive[201]
  first, *more = [e["seconds"] for e in happened(workdir, "compile")]
  assert len(more) == 2 and max(more) < first / 10


POINTS = {
  "rollback.after_note": False,
  "rollback.before_delete": False,
  "rollback.before_delete:2": False,
  "rollback.after_delete": False,
  "after_step:30": True,  # of the 26 before it, and 80 after it
}


@pytest.fixture(scope="module")
def uncut(tmp_path_factory, begun):
  """The state of a run with one rollback, over three checkpoints."""
  workdir = epath.Path(tmp_path_factory.mktemp("uncut"))
  shutil.copytree(begun, workdir, dirs_exist_ok=True)
  return tiny_run.digest(train(workdir, poisoned(FIVE), rollback_steps=60))


@pytest.mark.parametrize("point", POINTS)
def test_a_rollback_cut_short_is_finished(workdir, monkeypatch, uncut, point):
  monkeypatch.setattr(faults, "_passed", {})
  monkeypatch.setenv(faults.VARIABLE, f"raise@{point}")
  with pytest.raises(faults.Fault):
    train(workdir, poisoned(FIVE), rollback_steps=60)
  monkeypatch.delenv(faults.VARIABLE)
  assert rollback.read(workdir)[0].done is POINTS[point]
  state = train(workdir, poisoned(FIVE), rollback_steps=60)
  assert rollback.read(workdir) == (rollback.Rollback(205, 140, 65, True),)
  assert tiny_run.digest(state) == uncut


def test_from_before_a_damaged_checkpoint_it_goes_the_same_way(
  workdir, monkeypatch
):
  whole = train(workdir / "whole", poisoned(FIVE), rollback_steps=40)
  monkeypatch.setattr(faults, "_passed", {})
  monkeypatch.setenv(faults.VARIABLE, "raise@rollback.after_delete")
  with pytest.raises(faults.Fault):
    train(workdir, poisoned(FIVE), rollback_steps=40)
  monkeypatch.delenv(faults.VARIABLE)
  assert [entry.to for entry in rollback.read(workdir)] == [160]
  (workdir / "checkpoints" / "160" / "stray").write_bytes(b"")
  state = train(workdir, poisoned(FIVE), rollback_steps=40)
  assert [e["step"] for e in happened(workdir, "damaged")] == [160]
  assert tiny_run.digest(state) == tiny_run.digest(whole)


IN_A_PROCESS = GIVEN | {
  "steps": STEPS,
  "poison": [FIVE.start, FIVE.stop],
  "spike_deviations": 8.0,
}


@pytest.mark.slow
def test_a_kill_in_a_rollback_changes_no_bit(tmp_path):
  def start(name, **environment):
    given = IN_A_PROCESS | {"workdir": tmp_path / name}
    return tiny_run.start(given, **environment)

  first = start("killed", IMAGEN_FAULT="kill@rollback.after_note")
  whole = start("whole")
  assert [(run.communicate(), run.returncode)[1] for run in (first, whole)] == [
    *(-9, 0)
  ]
  again = start("killed")
  assert (again.communicate(), again.returncode)[1] == 0
  digests = [
    (tmp_path / n / "digest.txt").read_text() for n in ("killed", "whole")
  ]
  assert digests[0] == digests[1]


@pytest.mark.slow
def test_two_processes_go_back_as_one(tmp_path):
  with processes_test.two(tmp_path / "two", **IN_A_PROCESS) as runs:
    for run in runs:
      output, _ = run.communicate(timeout=90)
      assert run.returncode == 0, output
  assert rollback.read(epath.Path(tmp_path / "two")) == (
    rollback.Rollback(205, 180, 25, True),
  )
  for i in range(2):
    lines = (tmp_path / "two" / f"keys_{i}.jsonl").read_text().splitlines()
    places = [json.loads(line)[0] for line in lines]
    assert places == [*range(206), *range(205, 245)]
  one = epath.Path(tmp_path / "one")
  train(one, poisoned(FIVE))
  losses = [
    [row["loss"] for row in tiny_run.rows(path)]
    for path in (one, tmp_path / "two")
  ]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
