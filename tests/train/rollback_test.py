"""Where it goes back to, what comes after it, and the file that says so."""

import itertools

import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.train import checkpoints, rollback, step_folders
from tests.train import states


def story(seed):
  """Rollbacks at random, and the batches of each attempt, step by step."""
  draw = np.random.default_rng(seed)
  taken, attempts, first, place = [], [], 0, {}
  for _ in range(5):
    at = first + int(draw.integers(1, 60))
    attempts.append([place.get(n, n) for n in range(first, at)])
    saved = sorted({0, *draw.integers(0, at, 3).tolist()})
    steps, skip = draw.integers(0, 80, 2).tolist()
    taken.append(rollback.plan(taken, saved, at, steps=steps, skip=skip))
    first, offset = taken[-1].to, taken[-1].offset
    # By hand: from `first` on each step has another place.
    place = {n: place.get(n, n) for n in range(first)}
    place |= {n: n + offset for n in range(first, 1000)}
  return taken, attempts, place


@pytest.mark.parametrize("seed", range(20))
def test_no_batch_is_used_again_and_none_depends_on_the_start(seed):
  taken, attempts, place = story(seed)
  positions = [rollback.position(taken, n) for n in range(1000)]
  assert positions == [place[n] for n in range(1000)]
  assert all(a < b for a, b in itertools.pairwise(positions))
  attempts.append(positions[taken[-1].to :])
  for earlier, later in itertools.pairwise(attempts):
    assert max(earlier) < min(later)
  for start in (0, taken[0].to, taken[-1].to - 1, 500):
    start = max(start, 0)
    found = rollback.batches(itertools.count, taken, start)
    assert list(itertools.islice(found, 400)) == positions[start : start + 400]


def test_a_step_has_its_own_batch_without_a_rollback():
  assert rollback.position([], 7) == 7
  assert next(rollback.batches(itertools.count, [], 7)) == 7


def test_back_to_the_newest_checkpoint_that_is_far_enough():
  def plan(saved, **given):
    return rollback.plan([], saved, 250, **{"steps": 100, "skip": 0} | given)

  assert plan([100, 150, 200]) == (250, 150, 100, False)
  assert plan([100, 151, 200]) == (250, 100, 150, False)
  assert plan([200, 240]) == (250, 200, 50, False)  # the oldest
  assert plan([100, 150, 200], skip=300) == (250, 150, 300, False)


def test_the_file_is_read_as_written_and_its_damage_named(tmp_path):
  workdir = epath.Path(tmp_path)
  assert rollback.read(workdir) == ()
  entries = rollback.Rollback(9, 5, 4, True), rollback.Rollback(8, 2, 11, False)
  rollback.note(workdir, [], entries[0])
  rollback.note(workdir, entries[:1], entries[1])
  assert rollback.read(workdir) == entries
  text = (workdir / rollback.FILE).read_text()
  for damage in ("", "[1]", '[{"at": 1}]', "{", text.replace("5", '"5"')):
    (workdir / rollback.FILE).write_text(damage)
    with pytest.raises(errors.CheckpointError, match="rollbacks.json is dam"):
      rollback.read(workdir)


def test_what_is_newer_is_deleted_once(tmp_path):
  workdir = epath.Path(tmp_path)
  saver = checkpoints.Checkpoints(workdir)
  for step in (1, 2, 3):
    saver.save(step, states.at(step), wait=True)
  saver.close()
  folder = workdir / step_folders.FOLDER
  rollback.finish(workdir)
  assert step_folders.steps_in(folder) == [1, 2, 3]
  rollback.note(workdir, [], rollback.Rollback(4, 2, 2, done=False))
  rollback.finish(workdir)
  assert {p.name for p in folder.iterdir()} == {
    *("1", "1.manifest.json"),
    *("2", "2.manifest.json"),
  }
  saver = checkpoints.Checkpoints(workdir)
  saver.save(3, states.at(3), wait=True)
  saver.close()
  rollback.finish(workdir)
  assert step_folders.steps_in(folder) == [1, 2, 3]
