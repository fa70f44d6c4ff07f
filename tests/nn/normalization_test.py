"""GroupNorm and LayerNorm: what they forget, and their equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.nn import normalization
from tests import numpy_layers, random_params


def test_group_norm_forgets_scale_and_offset_of_an_example(x64):
  module = normalization.GroupNorm(dtype=jnp.float64)
  x = random_params.normal(2, 4, 4, 8, dtype=np.float64)
  params = random_params.params(module, x, dtype=np.float64)
  variables = {"params": params}
  factor = jnp.asarray([3.0, 0.5])[:, None, None, None]
  moved = module.apply(variables, x * factor + 7)
  np.testing.assert_allclose(moved, module.apply(variables, x), atol=1e-4)
  bent = module.apply(variables, x + x**2)
  assert np.abs(bent - module.apply(variables, x)).max() > 0.1


def test_groups_have_mean_0_and_variance_1():
  x = random_params.normal(2, 8, 8, 64) * 5 + 2
  params = {"scale": jnp.ones(64), "bias": jnp.zeros(64)}
  y = normalization.GroupNorm().apply({"params": params}, x)
  groups = np.asarray(y).reshape(2, 64, 32, 2)
  np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-4)


def test_examples_do_not_meet():
  module = normalization.GroupNorm("swish")
  x = random_params.normal(2, 4, 4, 8)
  variables = {"params": random_params.params(module, x)}
  got = module.apply(variables, x)
  other = module.apply(variables, x.at[1].multiply(9))
  np.testing.assert_array_equal(got[0], other[0])


@pytest.mark.parametrize("activation", [None, "swish", "gelu"])
@pytest.mark.parametrize("modulated", [False, True])
def test_group_norm_again_in_float64(activation, modulated, x64):
  module = normalization.GroupNorm(activation, dtype=jnp.float64)
  x = random_params.normal(2, 3, 5, 48, dtype=np.float64)
  scale_shift = random_params.normal(2, 96, seed=1, dtype=np.float64)
  params = random_params.params(module, x, dtype=np.float64)
  inputs = (x, scale_shift) if modulated else (x,)
  got = module.apply({"params": params}, *inputs)
  arrays = [np.asarray(array) for array in inputs]
  expected = numpy_layers.group_norm(params, arrays[0], 24, *arrays[1:])
  if activation:
    expected = getattr(numpy_layers, activation)(expected)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
  jitted = jax.jit(module.apply)({"params": params}, *inputs)
  np.testing.assert_allclose(got, jitted, rtol=0, atol=1e-12)


def test_group_norm_is_that_of_linen():
  x = random_params.normal(2, 4, 4, 64)
  params = random_params.params(normalization.GroupNorm(), x)
  got = normalization.GroupNorm().apply({"params": params}, x)
  linen = nn.GroupNorm(num_groups=32).apply({"params": params}, x)
  np.testing.assert_allclose(got, linen, rtol=0, atol=1e-5)
  sixteen = nn.GroupNorm(num_groups=16).apply({"params": params}, x)
  assert np.abs(got - sixteen).max() > 0.1


def test_statistics_of_bfloat16_are_float32():
  x = (random_params.normal(1, 32, 32, 8) + 3).astype(jnp.bfloat16)
  mean, variance = normalization.group_statistics(x, 8)
  wide = np.float64(x).reshape(1024, 8)
  assert mean.dtype == variance.dtype == jnp.float32
  np.testing.assert_allclose(mean[0], wide.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(variance[0], wide.var(axis=0), rtol=1e-5)
  module = normalization.GroupNorm(dtype=jnp.bfloat16)
  variables = {"params": random_params.params(module, x)}
  assert module.apply(variables, x).dtype == jnp.bfloat16


def test_constant_channels_give_the_bias():
  x = jnp.full((1, 4, 4, 8), 3.3)
  params = {"scale": jnp.ones(8), "bias": jnp.arange(8.0)}
  y = normalization.GroupNorm().apply({"params": params}, x)
  expected = np.broadcast_to(np.arange(8.0), (1, 4, 4, 8))
  np.testing.assert_allclose(y, expected, atol=2e-3)  # 3.3 * 2^-24 / 1e-3


@pytest.mark.parametrize(
  "channels, groups",
  [(512, 32), (352, 32), (96, 32), (48, 24), (36, 18), (8, 8), (37, 1)],
)
def test_groups_divide_the_channels(channels, groups):
  assert normalization.num_groups(channels) == groups


def test_layer_norm_again_in_float64(x64):
  module = normalization.LayerNorm(dtype=jnp.float64)
  x = random_params.normal(2, 3, 8, dtype=np.float64)
  params = random_params.params(module, x, dtype=np.float64)
  got = module.apply({"params": params}, x)
  expected = numpy_layers.layer_norm(params, np.asarray(x))
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
  moved = module.apply({"params": params}, 2 * x + 1)
  np.testing.assert_allclose(moved, got, rtol=0, atol=1e-4)


def test_layer_norm_of_zeros_is_its_bias():
  params = {"scale": jnp.ones(8), "bias": jnp.arange(8.0)}
  y = normalization.LayerNorm().apply({"params": params}, jnp.zeros((2, 3, 8)))
  np.testing.assert_array_equal(y[1, 2], np.arange(8.0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_layer_norm_parameters_are_float32_whatever_the_dtype(dtype):
  module = normalization.LayerNorm(dtype=dtype)
  x = jnp.ones((1, 8), dtype)
  params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  assert {leaf.dtype.name for leaf in params.values()} == {"float32"}
  y = jax.eval_shape(module.apply, {"params": params}, x)
  assert y.dtype == dtype


@pytest.mark.parametrize("cotangent", [1.0, -3.0])
def test_the_gradient_of_the_swish_is_that_of_the_equation(cotangent, x64):
  x = random_params.normal(2, 3, 5, 4, dtype=np.float64)
  factor, offset = (
    random_params.normal(2, 4, seed=seed, dtype=np.float64) for seed in (1, 2)
  )

  def plain(x, factor, offset):
    y = x * factor[:, None, None] + offset[:, None, None]
    return y / (1 + jnp.exp(-y))

  def own(x, factor, offset):
    return normalization.affine_swish(x, factor, offset, jnp.dtype("float64"))

  got, expected = (
    jax.jit(
      jax.grad(lambda *a, f=f: (cotangent * jnp.sin(f(*a))).sum(), (0, 1, 2))
    )(x, factor, offset)
    for f in (own, plain)
  )
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert np.abs(np.asarray(b)).max() > 0.1
