"""Halving, doubling and the way up for x_lr."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.nn import resampling
from tests import random_params


def bilinear(x, height, width):
  """Half-pixel centres, pixels beyond the border repeat it; float64."""
  x = np.float64(x)
  for axis, size in ((1, height), (2, width)):
    old = x.shape[axis]
    centre = (np.arange(size) + 0.5) * old / size - 0.5
    low = np.floor(centre).astype(int)
    shape = [1] * 4
    shape[axis] = size
    share = (centre - low).reshape(shape)
    first = np.take(x, np.clip(low, 0, old - 1), axis)
    second = np.take(x, np.clip(low + 1, 0, old - 1), axis)
    x = first * (1 - share) + second * share
  return x


def test_halving_undoes_doubling():
  x = random_params.normal(2, 3, 5, 4)
  back = resampling.halve_average(resampling.enlarge_nearest(x))
  np.testing.assert_array_equal(back, x)


def test_doubling_is_the_adjoint_of_halving_but_for_4(x64):
  x = random_params.normal(2, 3, 5, 4, dtype=np.float64)
  y = random_params.normal(2, 6, 10, 4, seed=1, dtype=np.float64)
  left = (resampling.enlarge_nearest(x) * y).sum()
  right = 4 * (x * resampling.halve_average(y)).sum()
  np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("factors", [(2, 2), (4, 1), (1, 3)])
def test_every_pixel_becomes_a_rectangle(factors):
  x = random_params.normal(1, 2, 3, 2)
  expected = np.asarray(x).repeat(factors[0], 1).repeat(factors[1], 2)
  got = resampling.enlarge_nearest(x, factors)
  np.testing.assert_array_equal(got, expected)


def test_halving_takes_means_of_squares():
  x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
  got = resampling.halve_average(jnp.asarray(x))[0, :, :, 0]
  np.testing.assert_array_equal(got, [[2.5, 4.5], [10.5, 12.5]])


def test_a_pixel_of_x_lr_moves_the_enlarged_image_by_four():
  x_lr = random_params.normal(1, 4, 6, 3)
  z_t = random_params.normal(1, 16, 24, 3, seed=1)
  whole = resampling.concat_low_resolution(z_t, x_lr)
  crop = resampling.concat_low_resolution(z_t[:, :, 4:], x_lr[:, :, 1:])
  # But for the border of the crop, which repeats its own pixels.
  inside = (slice(None), slice(None), slice(2, None))
  np.testing.assert_allclose(crop[inside], whole[:, :, 4:][inside], atol=1e-6)
  assert np.abs(crop[:, :, :2] - whole[:, :, 4:6]).max() > 0.1


@pytest.mark.parametrize("size", [(16, 24), (8, 12), (4, 6), (10, 9)])
def test_enlarging_is_bilinear(size):
  x_lr = random_params.normal(2, 4, 6, 3)
  z_t = random_params.normal(2, *size, 3, seed=1)
  got = resampling.concat_low_resolution(z_t, x_lr)
  assert got.shape == (2, *size, 6)
  np.testing.assert_array_equal(got[..., :3], z_t)
  np.testing.assert_allclose(got[..., 3:], bilinear(x_lr, *size), atol=1e-5)


def test_low_resolution_is_enlarged_in_float32():
  x_lr = random_params.normal(1, 2, 2, 3).astype(jnp.bfloat16)
  z_t = jnp.zeros((1, 8, 8, 3), jnp.bfloat16)
  got = resampling.concat_low_resolution(z_t, x_lr)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got[..., 3:], bilinear(x_lr, 8, 8), atol=1e-6)
