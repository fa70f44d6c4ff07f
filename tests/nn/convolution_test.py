"""The convolution: equal to linen's, plain for every platform."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from imagen_jax.nn import convolution

CASES = [
  # kernel, strides, height, width, channels in, channels out
  ((3, 3), (1, 1), 6, 8, 4, 5),
  ((3, 3), (2, 2), 6, 8, 4, 5),
  ((3, 3), (2, 1), 5, 7, 3, 4),
  ((1, 1), (1, 1), 6, 8, 4, 5),
  ((1, 1), (2, 2), 6, 8, 4, 5),
]


def _example(case, dtype):
  kernel_size, _, h, w, ci, co = case
  draw = np.random.default_rng(0).standard_normal
  params = {
    "kernel": jnp.asarray(draw((*kernel_size, ci, co)), dtype),
    "bias": jnp.asarray(draw((co,)), dtype),
  }
  return params, jnp.asarray(draw((2, h, w, ci)), dtype)


def _value_and_grads(module, params, x):
  """sum(cos(y)), which weighs every output differently, and gradients."""

  def loss(params, x):
    return jnp.cos(module.apply({"params": params}, x)).sum()

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)


def _largest_relative_error(got, expected):
  def error(a, b):
    a, b = np.float64(a), np.float64(b)
    return np.abs(a - b).max() / np.abs(b).max()

  return max(jax.tree.leaves(jax.tree.map(error, got, expected)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
  "dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)]
)
def test_value_and_gradients_are_those_of_linen(case, dtype, tolerance):
  with jax.enable_x64(dtype == "float64"):
    params, x = _example(case, dtype)
    options = {"kernel_size": case[0], "strides": case[1], "dtype": dtype}
    got = _value_and_grads(convolution.Conv(case[5], **options), params, x)
    linen = nn.Conv(case[5], **options)
    expected = _value_and_grads(linen, params, x)
    other = _value_and_grads(linen, params, 1.001 * x)
  assert _largest_relative_error(got, expected) < tolerance
  assert _largest_relative_error(got, other) > 1e-4


def test_equals_the_sum_of_the_docstring():
  params, x = _example(CASES[0], "float32")
  kernel = np.float64(params["kernel"])
  padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
  b, h, w, _ = x.shape
  expected = np.zeros((b, h, w, kernel.shape[-1]))
  for p, q in itertools.product(range(3), range(3)):
    expected += padded[:, p : p + h, q : q + w] @ kernel[p, q]
  got = convolution.conv(x, params["kernel"])
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert np.abs(expected).max() > 1


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_are_those_of_linen(use_bias):
  x = jnp.zeros((1, 4, 4, 6))
  key = jax.random.key(0)
  options = {"kernel_size": (3, 3), "use_bias": use_bias}
  shapes = [
    jax.eval_shape(module(5, **options).init, key, x)
    for module in (convolution.Conv, nn.Conv)
  ]
  assert shapes[0] == shapes[1]


@pytest.mark.parametrize("case", [CASES[0], CASES[3]])
def test_bfloat16_adds_up_in_float32(case):
  params, x = _example(case, "bfloat16")
  # 64 times the channels: sums in bfloat16 would be wrong in the first digit.
  kernel = jnp.tile(params["kernel"], (1, 1, 64, 1))
  x = jnp.tile(x, (1, 1, 1, 64))
  got = convolution.conv(x, kernel)
  expected = convolution.conv(x.astype(jnp.float32), kernel.astype(jnp.float32))
  assert got.dtype == jnp.bfloat16
  # The result is rounded once, to eight bits.
  np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("case", [CASES[0], CASES[3]])
def test_vmap_and_remat_change_nothing(case):
  params, x = _example(case, "float32")
  kernels = jnp.stack([params["kernel"], 2 * params["kernel"]])
  mapped = jax.vmap(convolution.conv, in_axes=(None, 0))(x, kernels)
  each = jnp.stack([convolution.conv(x, kernel) for kernel in kernels])
  np.testing.assert_allclose(mapped, each, rtol=1e-5, atol=1e-5)

  module = convolution.Conv(case[5], kernel_size=case[0])
  remat = nn.remat(convolution.Conv)(case[5], kernel_size=case[0])
  got = _value_and_grads(remat, params, x)
  assert (
    _largest_relative_error(got, _value_and_grads(module, params, x)) < 1e-6
  )


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
@pytest.mark.parametrize(
  "kernel_size, operation", [((3, 3), "convolution"), ((1, 1), "dot_general")]
)
def test_every_platform_gets_three_plain_operations(
  platform, kernel_size, operation
):
  """Forward, input gradient, weight gradient, and nothing of our own."""

  def loss(kernel, x):
    return jnp.cos(convolution.conv(x, kernel)).sum()

  kernel = jax.ShapeDtypeStruct((*kernel_size, 8, 16), jnp.float32)
  x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32)
  grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
  text = export.export(grad, platforms=[platform])(kernel, x).mlir_module()
  assert text.count(f"stablehlo.{operation}") == 3
  assert "custom_call" not in text
