"""Checkpoints are whole, or named as damaged; and never lost to one another."""

import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.train import checkpoints, manifest, step_folders
from tests.train import states
from tests.train.manifest_test import damage, files_of


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A run with steps 1, 2 and 3."""
  workdir = tmp_path_factory.mktemp("run")
  saver = checkpoints.Checkpoints(workdir)
  for step in (1, 2, 3):
    saver.save(step, states.at(step), wait=True)
  saver.close()
  return workdir


@pytest.fixture
def run(written, tmp_path):
  """A copy of it to damage."""
  return epath.Path(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def make():
  """Opens checkpoints, and closes them after the test."""
  opened = []

  def checkpoints_of(workdir, **options):
    opened.append(checkpoints.Checkpoints(workdir, **options))
    return opened[-1]

  yield checkpoints_of
  for saver in opened:
    saver.close()


def spoil(folder, step):
  """One bit of the largest file of a step."""
  path = max(files_of(folder / str(step)), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  return path


def test_what_is_restored_is_what_was_saved(run, make):
  saver = make(run)
  assert saver.latest_step() == 3
  assert states.equal(saver.restore(states.abstract()), states.at(3))
  assert states.equal(saver.restore(states.abstract(), 1), states.at(1))
  assert not states.equal(states.at(3), states.at(1))


def test_20_of_20_damaged_ones_fall_back_to_the_newest_that_is_whole(
  run, make, tmp_path
):
  draw = np.random.default_rng(2)
  for trial in range(20):
    workdir = epath.Path(shutil.copytree(run, tmp_path / f"trial{trial}"))
    paths = [
      path
      for path in files_of(workdir / "checkpoints" / "3")
      if trial % 4 or path.stat().st_size > 1000
    ]
    damage(paths[draw.integers(len(paths))], draw)
    heard = []
    state = make(workdir).restore(
      states.abstract(), on_fallback=lambda *told, to=heard: to.append(told)
    )
    assert states.equal(state, states.at(2))
    assert [step for step, _ in heard] == [3] and heard[0][1]
    left = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {"3.bad", "3.bad.manifest.json", "2"} <= left and "3" not in left


def test_a_file_too_many_is_damage_too(run, make):
  (run / "checkpoints/3/default/stray").write_bytes(b"")
  heard = []
  saver = make(run)
  saver.restore(states.abstract(), on_fallback=lambda *told: heard.append(told))
  assert heard == [(3, "default/stray is not in it")]
  # The step is saved anew, and damaged anew: neither .bad is lost.
  saver.save(3, states.at(3), wait=True)
  spoil(run / "checkpoints", 3)
  assert int(saver.restore(states.abstract()).step) == 2
  assert step_folders.bad_in(run / "checkpoints") == ["3.bad", "3.bad2"]


def test_when_all_are_damaged_each_is_named_and_none_begins_anew(run, make):
  for step in (1, 2, 3):
    spoil(run / "checkpoints", step)
  saver = make(run)
  with pytest.raises(
    errors.CheckpointError, match=r"step 3: .*SHA.* step 2: .* step 1: "
  ):
    saver.restore(states.abstract())
  with pytest.raises(errors.CheckpointError, match=r"1.bad, 2.bad, 3.bad"):
    make(run).latest_step()
  assert errors.CheckpointError.exit_code == 5


def test_a_damaged_step_that_was_asked_for_stays_and_is_an_error(run, make):
  spoil(run / "checkpoints", 2)
  with pytest.raises(errors.CheckpointError, match="step 2: .* SHA-256"):
    make(run).restore(states.abstract(), 2)
  assert step_folders.steps_in(run / "checkpoints") == [1, 2, 3]


def test_verification_can_be_turned_off(run, make):
  path = run / "checkpoints/3/_CHECKPOINT_METADATA"
  path.write_text(path.read_text() + " ")
  state = make(run).restore(states.abstract(), verify=False)
  assert states.equal(state, states.at(3))


def test_without_its_manifest_a_step_counts_if_it_can_be_read(run, make):
  folder = run / "checkpoints"
  manifest.path(folder, 3).unlink()
  state = make(run).restore(states.abstract())
  assert states.equal(state, states.at(3))
  assert manifest.faults_of(folder, 3) == []
  about = manifest.read(folder, 3).about
  assert about["schema"] == 1


def test_without_its_manifest_and_unreadable_it_is_set_aside(run, make):
  folder = run / "checkpoints"
  manifest.path(folder, 3).unlink()
  (folder / "3/default/_METADATA").write_text("{")
  heard = []
  state = make(run).restore(
    states.abstract(), on_fallback=lambda *told: heard.append(told)
  )
  assert states.equal(state, states.at(2)) and heard[0][0] == 3


def test_what_is_saved_is_not_touched_by_the_steps_that_follow(tmp_path, make):
  saver = make(tmp_path)
  advance = jax.jit(
    lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0
  )
  state = states.at(5, width=50_000)
  saver.save(5, state)
  for _ in range(5):
    state = advance(state)
  saver.wait()
  restored = saver.restore(states.abstract(50_000))
  assert states.equal(restored, states.at(5, 50_000))
  assert not states.equal(restored, state)


def test_a_step_is_committed_when_its_manifest_is_there_and_told_once(
  tmp_path, make, monkeypatch
):
  saver, folder = make(tmp_path), epath.Path(tmp_path) / "checkpoints"
  write, may_write = manifest.write, threading.Event()
  monkeypatch.setattr(
    manifest, "write", lambda *given: (may_write.wait(30), write(*given))
  )
  saver.save(1, states.at(1))
  assert saver.check() == []
  assert not manifest.path(folder, 1).exists()
  may_write.set()
  started = time.monotonic()
  while not (told := saver.check()):
    assert time.monotonic() - started < 30
    time.sleep(0.02)
  assert told == [1] and manifest.faults_of(folder, 1) == []
  assert saver.check() == []
  saver.save(1, states.at(1), wait=True)  # it is saved already
  assert saver.check() == []


def test_an_error_in_the_background_is_raised_at_the_next_check(
  tmp_path, make, monkeypatch
):
  saver = make(tmp_path)
  saver.save(1, states.at(1), wait=True)
  assert saver.check() == [1]

  def fail(*given):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(manifest, "write", fail)
  saver.save(2, states.at(2))
  with pytest.raises(
    errors.CheckpointError, match=r"save step 2 in .*No space.* were \(\[1\]\)"
  ):
    for _ in range(1000):
      saver.check()
      time.sleep(0.01)
  assert saver.check() == []  # said once


def test_retention_by_number_period_and_score(tmp_path, make):
  saver = make(tmp_path, keep=2, keep_every=4, keep_best=1)
  scores = [0.9, 0.1, 0.5, 0.6, 0.7, 0.8, 0.4]
  for step, score in enumerate(scores, 1):
    saver.save(step, states.at(step, 2), score=score, wait=True)
  folder = epath.Path(tmp_path) / "checkpoints"
  assert step_folders.steps_in(folder) == [2, 4, 6, 7]
  assert {path.name for path in folder.iterdir()} == {
    name for n in (2, 4, 6, 7) for name in (f"{n}", f"{n}.manifest.json")
  }


def test_leftovers_are_removed_at_the_next_start(run, make):
  folder = run / "checkpoints"
  (folder / "9.orbax-checkpoint-tmp-3" / "default").mkdir(parents=True)
  (folder / ".9.manifest.json.tmp").write_text("{")
  manifest.path(folder, 1).rename(folder / "1.deleted")  # killed while deleting
  assert step_folders.steps_in(folder) == [2, 3]
  make(run)
  names = {path.name for path in folder.iterdir()}
  assert names == {"2", "3", "2.manifest.json", "3.manifest.json"}


def test_the_manifest_tells_of_the_run(tmp_path, make):
  workdir = epath.Path(tmp_path)
  run = {"config": {"seed": 1}, "config_hash": "ab", "hashes": {"data": "d"}}
  files.write_json(workdir / "run.json", run | {"devices": ["cpu:0"]})
  make(workdir).save(1, states.at(1), wait=True, score=0.5)
  (workdir / "run.json").unlink()
  count = 8 * 64 + 64
  assert step_folders.recorded(workdir) == run | {
    "schema": 1,
    "score": 0.5,
    "parameters": {"raw": count, "ema": count},
  }


def test_a_run_that_saved_nothing_is_nothing_to_go_on_from(tmp_path):
  workdir = epath.Path(tmp_path)
  files.write_json(workdir / "run.json", {"config": {}, "hashes": {}})
  assert step_folders.recorded(workdir) is None


def test_too_little_space_is_said_before_training(tmp_path):
  workdir = epath.Path(tmp_path)
  checkpoints.check_space(workdir, states.abstract())
  huge = jax.ShapeDtypeStruct((1 << 50,), jnp.float32)
  with pytest.raises(errors.BadInput, match=r"two checkpoints .* take 9.01e"):
    checkpoints.check_space(workdir, states.abstract().replace(params=huge))


def test_no_checkpoint_is_said_as_such(tmp_path, make, run):
  with pytest.raises(errors.BadInput, match="no checkpoint in .* are none"):
    make(tmp_path).restore(states.abstract())
  with pytest.raises(errors.BadInput, match=r"of step 9 in .* \[1, 2, 3\]"):
    make(run).restore(states.abstract(), 9)
  assert make(tmp_path).latest_step() is None
