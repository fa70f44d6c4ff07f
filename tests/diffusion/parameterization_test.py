"""Predictions: cycles, exact identity, formulas in float64, stable ends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import parameterization, process

NAMES = ("x0", "eps", "v")
SHAPE = (3, 4, 4, 2)


def draw(seed: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("logsnr", [-20.0, 0.3, 20.0])
def test_identity_is_bit_for_bit(name, logsnr):
  output, z_t, levels = draw(0), draw(1), jnp.full(3, logsnr)
  actual = parameterization.convert(
    output, z_t, levels, source=name, destination=name
  )
  np.testing.assert_array_equal(actual, output)
  if name != "v":
    pair = parameterization.to_x0_eps(output, z_t, levels, prediction=name)
    np.testing.assert_array_equal(getattr(pair, name), output)


@pytest.mark.parametrize(("source", "via"), itertools.permutations(NAMES, 2))
def test_there_and_back(source, via, x64):
  output, z_t = draw(0, jnp.float64), draw(1, jnp.float64)
  logsnr = jnp.array([-12.0, 0.1, 12.0])
  there = parameterization.convert(
    output, z_t, logsnr, source=source, destination=via
  )
  back = parameterization.convert(
    there, z_t, logsnr, source=via, destination=source
  )
  assert back.dtype == jnp.float64
  np.testing.assert_allclose(back, output, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_target_predicts_the_truth(name, x64):
  x0, eps = draw(0, jnp.float64), draw(1, jnp.float64)
  logsnr = jnp.array([-18.0, -0.5, 18.0])
  z_t = process.q_sample(x0, logsnr, eps)
  target = parameterization.target(x0, eps, logsnr, prediction=name)
  pair = parameterization.to_x0_eps(target, z_t, logsnr, prediction=name)
  np.testing.assert_allclose(pair.x0, x0, rtol=0, atol=1e-9)
  np.testing.assert_allclose(pair.eps, eps, rtol=0, atol=1e-9)


def test_formulas_again_in_float64(x64):
  output, z_t = draw(0, jnp.float64), draw(1, jnp.float64)
  logsnr = np.array([-7.0, 0.4, 9.0])
  alpha = np.sqrt(1.0 / (1.0 + np.exp(-logsnr))).reshape(3, 1, 1, 1)
  sigma = np.sqrt(1.0 - alpha**2)
  y, z = np.asarray(output), np.asarray(z_t)
  expected = {
    "x0": (y, (z - alpha * y) / sigma),
    "eps": ((z - sigma * y) / alpha, y),
    "v": (alpha * z - sigma * y, sigma * z + alpha * y),
  }
  for name, (x0, eps) in expected.items():
    pair = parameterization.to_x0_eps(
      output, z_t, jnp.asarray(logsnr), prediction=name
    )
    np.testing.assert_allclose(pair.x0, x0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(pair.eps, eps, rtol=1e-9, atol=1e-9)
  swapped = parameterization.to_x0_eps(
    output, z_t, -jnp.asarray(logsnr), prediction="v"
  )
  assert np.max(np.abs(swapped.x0 - expected["v"][0])) > 1e-3


def test_errors_scale_as_the_weights_say(x64):
  # |eps - eps'|^2 = snr |x0 - x0'|^2, |v - v'|^2 = (1 + snr) |x0 - x0'|^2
  z_t, x0, other = (draw(seed, jnp.float64) for seed in range(3))
  logsnr = jnp.array([-3.0, 0.0, 4.0])

  def gap(name):
    ends = [
      parameterization.convert(x, z_t, logsnr, source="x0", destination=name)
      for x in (x0, other)
    ]
    return np.sum(np.square(ends[0] - ends[1]), axis=(1, 2, 3))

  snr = np.exp(np.asarray(logsnr))
  np.testing.assert_allclose(gap("eps"), snr * gap("x0"), rtol=1e-12)
  np.testing.assert_allclose(gap("v"), (1 + snr) * gap("x0"), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("logsnr", [-20.0, 20.0])
def test_ends_are_finite_in_value_and_gradient(name, logsnr):
  levels = jnp.full(3, logsnr)

  def total(output, levels):
    pair = parameterization.to_x0_eps(output, draw(1), levels, prediction=name)
    return jnp.sum(pair.x0) + jnp.sum(pair.eps)

  value, gradients = jax.value_and_grad(total, (0, 1))(draw(0), levels)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_from_x0_rederives_eps(x64):
  x0, z_t = draw(0, jnp.float64), draw(1, jnp.float64)
  logsnr = jnp.array([-2.0, 0.0, 2.0])
  pair = parameterization.from_x0(x0, z_t, logsnr)
  again = process.q_sample(pair.x0, logsnr, pair.eps)
  np.testing.assert_allclose(again, z_t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_output_is_promoted_and_jit_agrees(name):
  output, z_t, levels = draw(0).astype(jnp.bfloat16), draw(1), jnp.zeros(3)

  def convert(output):
    return parameterization.to_x0_eps(output, z_t, levels, prediction=name)

  eager, jitted = convert(output), jax.jit(convert)(output)
  assert eager.x0.dtype == eager.eps.dtype == jnp.float32
  for one, two in zip(eager, jitted, strict=True):
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_unknown_names_list_the_alternatives():
  with pytest.raises(errors.BadInput, match="x0, eps, v"):
    parameterization.check_prediction("velocity")
