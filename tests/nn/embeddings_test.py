"""The noise level: u = t for the cosine schedule, and its sinusoid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.nn import embeddings
from tests import numpy_layers, random_params


def test_unit_is_the_time_of_the_ideal_cosine_schedule(x64):
  t = np.linspace(0.001, 0.999, 101)
  logsnr = jnp.asarray(-2 * np.log(np.tan(np.pi * t / 2)))
  unit = embeddings.logsnr_to_unit(logsnr)
  np.testing.assert_allclose(unit, t, rtol=0, atol=1e-12)


def test_unit_is_finite_and_rises_with_the_noise():
  logsnr = jnp.asarray([jnp.inf, 300.0, 20.0, 1.0, 0.0, -1.0, -20.0, -jnp.inf])
  unit = np.asarray(embeddings.logsnr_to_unit(logsnr))
  assert unit[0] == 0 and unit[-1] == 1
  assert (np.diff(unit) >= 0).all() and (np.diff(unit)[2:-1] > 0).all()


def test_a_bfloat16_logsnr_is_not_mapped_in_bfloat16():
  logsnr = jnp.asarray([1.3], jnp.bfloat16)
  unit = embeddings.logsnr_to_unit(logsnr)
  wide = embeddings.logsnr_to_unit(logsnr.astype(jnp.float32))
  assert unit.dtype == jnp.float32
  np.testing.assert_array_equal(unit, wide)


@pytest.mark.parametrize("width", [4, 32])
def test_sinusoid_is_that_of_the_docstring(width, x64):
  unit = np.asarray([0.0, 0.1234, 0.5, 1.0])
  half = width // 2
  frequencies = 10_000.0 ** (-np.arange(half) / (half - 1))
  angles = np.outer(1000 * unit, frequencies)
  expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  got = embeddings.sinusoid(jnp.asarray(unit), width)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
  other = embeddings.sinusoid(jnp.asarray(unit), width, max_period=9000.0)
  assert np.abs(other - expected).max() > 1e-3


def test_the_sinusoid_of_a_step_is_that_of_the_docstring(x64):
  step = np.asarray([0.0, 37.0, 999.0])
  angles = np.outer(step, 10_000.0 ** (-np.arange(8) / 8))
  expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  got = embeddings.step_sinusoid(jnp.asarray(step), 16)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
  with pytest.raises(ValueError, match="width 7 of a sinusoid must be even"):
    embeddings.step_sinusoid(jnp.asarray(step), 7)


def test_neighbouring_levels_are_told_apart_in_float32():
  unit = jnp.linspace(0, 1, 1001)
  vectors = embeddings.sinusoid(unit, 32)
  steps = jnp.linalg.norm(vectors[1:] - vectors[:-1], axis=-1)
  assert steps.min() > 0.5


@pytest.mark.parametrize("width", [7, 2, 0])
def test_odd_and_tiny_widths_are_refused(width):
  with pytest.raises(ValueError, match=f"width {width} of a sinusoid must be"):
    embeddings.sinusoid(jnp.zeros(1), width)


def test_mlp_is_dense_swish_dense(x64):
  module = embeddings.EmbeddingMLP(6, dtype=jnp.float64)
  x = random_params.normal(3, 4, dtype=np.float64)
  params = random_params.params(module, x, dtype=np.float64)
  got = module.apply({"params": params}, x)
  expected = numpy_layers.mlp(params, np.asarray(x))
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
  jitted = jax.jit(module.apply)({"params": params}, x)
  np.testing.assert_allclose(got, jitted, rtol=0, atol=1e-12)
