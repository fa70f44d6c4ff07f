"""A checkpoint of another tree is refused; of other devices, it is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imagen_jax.core import errors, tree
from imagen_jax.train import checkpoints, step_folders
from tests.train import states


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with step 3."""
  return epath.Path(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def saver(workdir):
  saver = checkpoints.Checkpoints(workdir)
  saver.save(3, states.at(3), wait=True)
  yield saver
  saver.close()


def test_another_tree_shape_or_dtype_is_refused_by_name(saver, workdir):
  wanted = states.abstract()
  with pytest.raises(
    errors.BadInput, match=r"params/head/bias: \(64,\) float32"
  ):
    saver.restore(states.abstract(width=65))
  other = tree.map_named(
    lambda name, leaf: (
      jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)
      if name == "params/head/bias"
      else leaf
    ),
    wanted,
  )
  with pytest.raises(
    errors.BadInput, match=r"1 leaves differ.*params/head/bias: .*bfloat16"
  ):
    saver.restore(other)
  more = wanted.replace(params=wanted.params | {"new": wanted.step})
  with pytest.raises(errors.BadInput, match=r"params/new: missing \| \(\)"):
    saver.restore(more)
  fewer = wanted.replace(ema_params={})
  with pytest.raises(errors.BadInput, match=r"ema_params/head/bias: .*missing"):
    saver.restore(fewer)
  assert step_folders.steps_in(workdir / "checkpoints") == [3]


def test_a_cast_that_is_allowed_is_logged_and_of_floats_alone(saver, caplog):
  wanted = states.abstract()
  half = tree.cast(wanted, jnp.bfloat16)
  state = saver.restore(half, allow_dtype_cast=True)
  assert state.params["head"]["bias"].dtype == jnp.bfloat16
  assert float(state.params["head"]["bias"][0]) == 3.5
  assert state.step.dtype == jnp.int32
  assert "casting params/head/bias from float32 to bfloat16" in caplog.text
  floats = wanted.replace(step=jax.ShapeDtypeStruct((), jnp.float32))
  with pytest.raises(
    errors.BadInput, match=r"step: \(\) int32 \| \(\) float32"
  ):
    saver.restore(floats, allow_dtype_cast=True)


@pytest.mark.parametrize("devices", [8, 4, 2, 1])
def test_the_same_bytes_on_any_number_of_devices(tmp_path, devices):
  def sharding(leaf, n):
    mesh = Mesh(np.array(jax.devices()[:n]), ("data",))
    split = leaf.ndim and leaf.shape[0] % n == 0
    spec = PartitionSpec("data") if split else PartitionSpec()
    return NamedSharding(mesh, spec)

  state = states.at(6)
  on_8 = jax.tree.map(lambda x: jax.device_put(x, sharding(x, 8)), state)
  assert not on_8.params["head"]["kernel"].is_fully_replicated
  saver = checkpoints.Checkpoints(tmp_path)
  saver.save(6, on_8, wait=True)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(x, devices)
    ),
    state,
  )
  restored = saver.restore(abstract)
  assert states.equal(restored, state)
  assert all(
    len(leaf.sharding.device_set) == devices
    for leaf in jax.tree.leaves(restored)
  )
  saver.close()
