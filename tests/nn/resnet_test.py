"""The residual block: identity at the start, and its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.nn import param_init, resampling, resnet
from tests import numpy_layers, random_params

CASES = {
  "same": (8, {}),
  "wider": (16, {}),
  "up": (8, {"resample": "up"}),
  "down": (8, {"resample": "down"}),
  "efficient": (8, {"shortcut_conv": True, "skip_scale": "residual"}),
  "shortcut": (8, {"skip_scale": "shortcut"}),
  "added": (8, {"use_scale_shift_norm": False}),
}


def example(channels, dtype=np.float32, **options):
  module = resnet.ResNetBlock(channels, dtype=dtype, **options)
  x = random_params.normal(2, 4, 6, 8, dtype=dtype)
  emb = random_params.normal(2, 5, seed=1, dtype=dtype)
  return module, random_params.params(module, x, emb, dtype=dtype), (x, emb)


def expected_output(params, x, emb, channels, options):
  """The module docstring in numpy."""

  def resample(x):
    if options.get("resample") == "up":
      return x.repeat(2, axis=1).repeat(2, axis=2)
    if options.get("resample") == "down":
      return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    return x

  h = numpy_layers.swish(numpy_layers.group_norm(params["norm_0"], x, 8))
  h = numpy_layers.conv(params["conv_0"], resample(h))
  modulation = numpy_layers.dense(params["modulation"], emb)
  if options.get("use_scale_shift_norm", True):
    h = numpy_layers.group_norm(params["norm_1"], h, channels, modulation)
  else:
    h = h + modulation[:, None, None]
    h = numpy_layers.group_norm(params["norm_1"], h, channels)
  h = numpy_layers.conv(params["conv_1"], numpy_layers.swish(h))
  shortcut = resample(x)
  if "shortcut" in params:
    shortcut = numpy_layers.conv(params["shortcut"], shortcut)
  if options.get("skip_scale") == "residual":
    return (shortcut + h) / np.sqrt(2)
  if options.get("skip_scale") == "shortcut":
    return shortcut / np.sqrt(2) + h
  return shortcut + h


def test_the_sum_is_divided():
  module, params, given = example(8)
  divided = module.clone(divisor=4.0).apply({"params": params}, *given)
  whole = module.apply({"params": params}, *given)
  np.testing.assert_allclose(divided, whole / 4, rtol=1e-6)


@pytest.mark.parametrize(
  "resample, expected",
  [
    ("none", lambda x: x),
    ("up", resampling.enlarge_nearest),
    ("down", resampling.halve_average),
  ],
)
def test_a_new_block_is_its_shortcut(resample, expected):
  module, _, (x, emb) = example(8, resample=resample)
  params = param_init.init_params(module, jax.random.key(0), (x, emb))
  got = jax.jit(module.apply)({"params": params}, x, emb)
  np.testing.assert_array_equal(got, expected(x))


def test_both_the_embedding_and_the_neighbours_count():
  module, params, (x, emb) = example(8)
  apply = jax.jit(lambda x, emb: module.apply({"params": params}, x, emb))
  out = apply(x, emb)
  other = apply(x, emb.at[1].add(1))
  np.testing.assert_array_equal(out[0], other[0])
  assert np.abs(out[1] - other[1]).max() > 0.1
  other = apply(x.at[1, 0, 0].add(1), emb)
  np.testing.assert_array_equal(out[0], other[0])
  assert np.abs(out[1, 1, 1] - other[1, 1, 1]).max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_again_in_float64(case, x64):
  channels, options = CASES[case]
  module, params, inputs = example(channels, np.float64, **options)
  arrays = [np.asarray(array) for array in inputs]
  expected = expected_output(params, *arrays, channels, options)
  got = jax.jit(module.apply)({"params": params}, *inputs)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
  params["norm_1"]["bias"] += 1e-3
  other = expected_output(params, *arrays, channels, options)
  assert np.abs(got - other).max() > 1e-5


@pytest.mark.parametrize(
  "channels, options, there",
  [
    (8, {}, False),
    (16, {}, True),
    (8, {"resample": "down"}, False),
    (8, {"shortcut_conv": True}, True),
  ],
)
def test_a_shortcut_is_learned_where_it_must_be(channels, options, there):
  _, params, _ = example(channels, **options)
  assert ("shortcut" in params) == there
  if there:
    assert params["shortcut"]["kernel"].shape == (1, 1, 8, channels)


@pytest.mark.parametrize(
  "skip_scale, expected",
  [
    ("none", 3),
    ("unet", 3),
    ("residual", 3 * 0.5**0.5),
    ("shortcut", 0.5**0.5 + 2),
  ],
)
def test_what_is_divided_by_the_root_of_2(skip_scale, expected):
  one = jnp.ones((1, 1, 1, 1))
  got = resnet.add_skip(one, 2 * one, skip_scale)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_residual_scaling_keeps_the_variance():
  x = random_params.normal(1, 32, 32, 4)
  h = random_params.normal(1, 32, 32, 4, seed=1)
  assert abs(resnet.add_skip(x, h, "residual").var() - 1) < 0.05
  assert abs(resnet.add_skip(x, h, "none").var() - 2) < 0.1


def test_dropout_is_for_training_alone():
  module, params, (x, emb) = example(8, dropout=0.5)
  plain, _, _ = example(8)
  variables = {"params": params}
  apply = jax.jit(module.apply, static_argnums=3)
  out = apply(variables, x, emb, False)
  expected = jax.jit(plain.apply)(variables, x, emb)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  draws = [
    apply(variables, x, emb, True, rngs={"dropout": jax.random.key(seed)})
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert np.abs(draws[0] - draws[2]).max() > 0.1
  assert np.abs(draws[0] - out).max() > 0.1


def test_jit_changes_nothing():
  module, params, inputs = example(8)
  got = module.apply({"params": params}, *inputs)
  jitted = jax.jit(module.apply)({"params": params}, *inputs)
  np.testing.assert_allclose(got, jitted, rtol=0, atol=1e-5)


def test_remat_changes_nothing():
  module, params, inputs = example(8)
  remat = resnet.rematerialized(resnet.ResNetBlock, "blocks")(8)
  assert resnet.rematerialized(resnet.ResNetBlock, "none") is type(module)

  def gradient(module):
    def loss(params, x, emb):
      return jnp.cos(module.apply({"params": params}, x, emb, False)).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, *inputs)

  def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

  jax.tree.map(close, gradient(module), gradient(remat))


def test_parameters_are_float32_and_bfloat16_is_close():
  _, params, (x, emb) = example(8)
  module = resnet.ResNetBlock(8, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, emb)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
  half = jax.jit(module.apply)({"params": params}, x.astype(jnp.bfloat16), emb)
  assert half.dtype == jnp.bfloat16
  whole = jax.jit(resnet.ResNetBlock(8).apply)({"params": params}, x, emb)
  np.testing.assert_allclose(half.astype(jnp.float32), whole, atol=0.1)
  assert jnp.abs(whole).max() > 2
