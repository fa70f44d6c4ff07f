"""Drawing by name gives what `module.init` would, without compiling it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.nn import initializers, param_init


class Small(nn.Module):
  extra: bool = False

  @nn.compact
  def __call__(self, x):
    dense = nn.Dense(64, kernel_init=initializers.default, name="first")
    x = nn.LayerNorm(name="norm")(dense(x))
    if self.extra:
      x = nn.Dense(64, kernel_init=initializers.default, name="extra")(x)
    zero = nn.Dense(3, kernel_init=initializers.zeros, name="last")
    return zero(x)


INPUTS = (jax.ShapeDtypeStruct((1, 128), jnp.float32),)


def test_tree_and_distribution_are_those_of_module_init():
  drawn = param_init.init_params(Small(), jax.random.key(0), INPUTS)
  init = jax.jit(Small().init)(jax.random.key(1), jnp.ones((1, 128)))["params"]
  assert tree.diff(drawn, init) == ""
  for name, leaf in tree.flatten(drawn).items():
    other = tree.flatten(init)[name]
    np.testing.assert_allclose(leaf.std(), other.std(), rtol=0.03, atol=1e-8)
    np.testing.assert_allclose(leaf.mean(), other.mean(), atol=0.01)
    assert float(jnp.abs(leaf).max()) <= float(jnp.abs(other).max()) * 1.01


def test_adding_a_layer_moves_no_other_draw():
  without = param_init.init_params(Small(), jax.random.key(0), INPUTS)
  with_extra = param_init.init_params(Small(True), jax.random.key(0), INPUTS)
  np.testing.assert_array_equal(
    without["first"]["kernel"], with_extra["first"]["kernel"]
  )
  assert not np.array_equal(
    with_extra["extra"]["kernel"], with_extra["first"]["kernel"][:64]
  )


def test_a_parameter_without_a_known_initialiser_is_named():
  class Odd(nn.Module):
    @nn.compact
    def __call__(self, x):
      return x * self.param("mystery", initializers.ones, (1, 128))

  with pytest.raises(TypeError, match="mystery"):
    param_init.trace(Odd(), INPUTS)
