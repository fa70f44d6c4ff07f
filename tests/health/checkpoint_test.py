"""Steps that are whole, damaged, missing, or of another config."""

import json
import pathlib
import shutil

import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.health import checkpoint
from imagen_jax.train import checkpoints
from tests.train import states

CONFIG = {"config": {"optimizer": {"name": "adam"}}, "hashes": {"data": "a"}}


@pytest.fixture
def workdir(tmp_path):
  """A run with checkpoints of steps 2 and 4."""
  workdir = epath.Path(tmp_path)
  (workdir / "run.json").write_text(json.dumps(CONFIG))
  saver = checkpoints.Checkpoints(workdir)
  for step in (2, 4):
    saver.save(step, states.at(step), wait=True)
  saver.close()
  return workdir


def steps(workdir, *looked_at):
  damaged = {n: checkpoint.damage(workdir, n) for n in looked_at}
  found = checkpoint.steps(workdir, damaged)
  return {finding.check: finding for finding in found}


def flip(workdir, step):
  """One bit of the largest file of a step."""
  folder = pathlib.Path(workdir) / "checkpoints" / str(step)
  files = [path for path in folder.rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))


def test_whole_steps_are_well(workdir):
  found = steps(workdir, 2, 4)
  assert list(found) == ["steps"] and found["steps"].level == "ok"
  assert found["steps"].said == "4 trained; whole are 2, 4"


def test_a_damaged_step_is_named_with_the_one_before(workdir):
  before = sorted(str(path) for path in (workdir / "checkpoints").iterdir())
  flip(workdir, 4)
  found = steps(workdir, 2, 4)
  assert found["damage"].error is errors.CheckpointError
  assert found["damage"].said.startswith("step 4: ")
  assert "SHA-256" in found["damage"].said
  assert "goes on from step 2" in found["damage"].remedy
  assert found["steps"].said == "2 trained; whole are 2"
  after = sorted(str(path) for path in (workdir / "checkpoints").iterdir())
  assert after == before  # it looks, and changes nothing


def test_of_two_damaged_steps_nothing_is_left(workdir):
  flip(workdir, 2)
  flip(workdir, 4)
  found = steps(workdir, 2, 4)
  assert "no other one" in found["damage"].remedy
  assert "steps" not in found


def test_a_step_that_was_not_looked_at_is_not_called_whole(workdir):
  flip(workdir, 2)
  found = steps(workdir, 4)["steps"]
  assert found.said == "4 trained; whole are 4; not verified: 2"
  assert found.level == "ok"
  flip(workdir, 4)
  remedy = steps(workdir, 4)["damage"].remedy
  assert "from step 2 if that is whole, which was not verified;" in remedy


def test_a_step_that_is_deleted_meanwhile_is_not_damaged(workdir, monkeypatch):
  def faults(folder, step):
    shutil.rmtree(folder / str(step))
    return ["files are missing"]

  monkeypatch.setattr(checkpoint.manifest, "faults_of", faults)
  assert checkpoint.damage(workdir, 2) == []


def test_a_step_without_a_manifest_is_told(workdir):
  (workdir / "checkpoints" / "4.manifest.json").unlink()
  found = steps(workdir, 2, 4)["steps"]
  assert found.level == "warning" and "not verified: 4" in found.said
  assert "whole are 2;" in found.said


def test_what_was_set_aside_is_told(workdir):
  folder = workdir / "checkpoints"
  (folder / "4").rename(folder / "4.bad")
  found = steps(workdir, 2)
  assert found["set aside"].level == "warning"
  assert "4.bad" in found["set aside"].said and found["steps"].level == "ok"
  (folder / "2").rename(folder / "2.bad")
  found = steps(workdir)["steps"]
  assert found.level == "problem" and found.error is errors.CheckpointError


def test_a_run_that_has_not_begun_has_0_steps_trained(tmp_path):
  for workdir in (epath.Path(tmp_path), epath.Path(tmp_path) / "none"):
    found = steps(workdir)["steps"]
    assert found.level == "warning" and "imagen train" in found.remedy
    assert "the stage has 0 steps trained" in found.said


def test_a_checkpoint_of_step_0_is_not_trained(tmp_path):
  saver = checkpoints.Checkpoints(epath.Path(tmp_path))
  saver.save(0, states.at(0), wait=True)
  saver.close()
  found = steps(epath.Path(tmp_path), 0)["steps"]
  assert found.level == "warning" and "0 steps trained" in found.said


def test_the_same_run_may_go_on_and_another_may_not():
  assert checkpoint.same_run(CONFIG, CONFIG).level == "ok"
  other = CONFIG | {"hashes": {"data": "b"}}
  found = checkpoint.same_run(CONFIG, other)
  assert found.level == "problem" and found.error is errors.BadInput
  assert "hashes.data was 'a' and is now 'b'" in found.said


def test_another_stage_is_said_in_a_word():
  base, sr = (
    {"config": {"stage": {"name": name, "depth": n}}, "hashes": {}}
    for n, name in enumerate(("base", "sr"))
  )
  found = checkpoint.same_run(base, sr)
  assert found.level == "problem" and found.error is errors.BadInput
  assert found.said == (
    "the checkpoint is of a stage 'base', and the config of 'sr'"
  )


def test_leaves_that_fit_are_well(workdir):
  found = checkpoint.leaves(workdir, 4, states.abstract())
  assert found.level == "ok" and "step 4" in found.said


def test_leaves_of_another_shape_are_named(workdir):
  found = checkpoint.leaves(workdir, 4, states.abstract(width=32))
  assert found.level == "problem" and found.error is errors.BadInput
  assert "(64,) float32 | (32,) float32" in found.said


def test_a_checkpoint_that_cannot_be_read_is_told(workdir):
  for path in (workdir / "checkpoints" / "4" / "default").glob("*"):
    if path.is_file():
      path.unlink()
  found = checkpoint.leaves(workdir, 4, states.abstract())
  assert found.level == "problem" and found.error is errors.CheckpointError
