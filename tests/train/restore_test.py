"""Parameters alone, of a run that goes on or is long over."""

import shutil

import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.train import checkpoints, manifest, restore
from tests.train import states
from tests.train.checkpoints_test import spoil

SHAPES = jax.eval_shape(lambda: states.at(0).params)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  saver = checkpoints.Checkpoints(workdir)
  for step in (1, 2):
    state = states.at(step)
    averaged = jax.tree.map(lambda leaf: leaf / 2, state.params)
    saver.save(step, state.replace(ema_params=averaged), wait=True)
  saver.close()
  return workdir


@pytest.fixture
def run(written, tmp_path):
  return epath.Path(shutil.copytree(written, tmp_path / "run"))


def test_averaged_or_raw_parameters_of_the_newest_step_or_of_one(run):
  for which, factor in (("ema", 0.5), ("raw", 1.0)):
    for step in (None, 1):
      found = restore.restore_params(run, SHAPES, which=which, step=step)
      assert found.step == (step or 2)
      want = states.at(found.step).params["head"]
      for name in want:
        np.testing.assert_array_equal(
          found.params["head"][name], want[name] * factor
        )


def test_a_damaged_step_is_named_and_nothing_is_renamed(run):
  name = spoil(run / "checkpoints", 2).name
  with pytest.raises(
    errors.CheckpointError, match=rf"step 2 .* damaged.*{name}.*Other.* \[1\]"
  ):
    restore.restore_params(run, SHAPES)
  assert (run / "checkpoints/2").exists()
  assert restore.restore_params(run, SHAPES, step=1).step == 1


def test_verification_can_be_turned_off(run):
  (run / "checkpoints/2/default/stray").write_bytes(b"")
  with pytest.raises(errors.CheckpointError, match="stray is not in it"):
    restore.restore_params(run, SHAPES)
  assert restore.restore_params(run, SHAPES, verify=False).step == 2


def test_a_step_that_is_not_sealed_yet_is_not_the_newest(run):
  manifest.path(run / "checkpoints", 2).unlink()
  assert restore.restore_params(run, SHAPES).step == 1
  assert restore.restore_params(run, SHAPES, step=2).step == 2
  manifest.path(run / "checkpoints", 1).unlink()
  assert restore.restore_params(run, SHAPES).step == 2


def test_other_shapes_and_missing_steps_are_said_as_such(run, tmp_path):
  wider = jax.eval_shape(lambda: states.at(0, width=65).params)
  with pytest.raises(errors.CheckpointError, match="cannot read|does not fit"):
    restore.restore_params(run, wider)
  with pytest.raises(errors.BadInput, match=r"of step 7 .* \[1, 2\]"):
    restore.restore_params(run, SHAPES, step=7)
  with pytest.raises(errors.BadInput, match="there are none"):
    restore.restore_params(tmp_path / "empty", SHAPES)
