"""Tiles: weights that sum to 1, and a local denoiser that sees no tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import tiling


def local(z_t, logsnr, cond):
  """A 3x3 mean of z_t times x_lr enlarged; it sees zeros outside."""
  kernel = jnp.ones((3, 3, 1, 3), jnp.float32) / jnp.float32(9)
  y = jax.lax.conv_general_dilated(
    z_t, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=3,
  )  # fmt: skip
  if "x_lr" in cond:
    x_lr = cond["x_lr"]
    y = y * jnp.repeat(jnp.repeat(x_lr, 4, axis=1), 4, axis=2)
  return y + jnp.mean(cond["text_emb"]) + logsnr[:, None, None, None]


def inputs(h, w, factor=None):
  draw = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)  # noqa: E731
  cond = {"text_emb": normal(2, 3, 4)}
  if factor:
    cond["x_lr"] = normal(2, h // factor, w // factor, 3)
  return normal(2, h, w, 3), normal(2), cond


@pytest.mark.parametrize(
  ("size", "tile", "overlap", "unit", "expected"),
  [
    (32, 32, 8, 1, (0,)),
    (20, 32, 8, 1, (0,)),
    (56, 32, 8, 1, (0, 24)),
    (57, 32, 8, 1, (0, 12, 25)),
    (48, 32, 8, 4, (0, 16)),
    (64, 16, 0, 4, (0, 16, 32, 48)),
  ],
)
def test_tiles_cover_a_side(size, tile, overlap, unit, expected):
  assert tiling.starts(size, tile, overlap=overlap, unit=unit) == expected


@pytest.mark.parametrize("size", [33, 40, 57, 100, 128])
@pytest.mark.parametrize("overlap", [0, 1, 4, 8, 20, 31])
def test_weights_sum_to_one(size, overlap):
  begins = tiling.starts(size, 32, overlap=overlap, unit=1)
  assert begins[0] == 0 and begins[-1] == size - 32
  rows = tiling.weights(begins, 32, size)
  total = np.zeros(size)
  for begin, row in zip(begins, rows, strict=True):
    total[begin : begin + 32] += row
  np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-6)
  assert rows.min() >= 0.0


@pytest.mark.parametrize("factor", [None, 4])
@pytest.mark.parametrize(("h", "w"), [(32, 56), (48, 64)])
def test_a_local_denoiser_sees_no_tiles(h, w, factor):
  """It looks one pixel far; the rest of an overlap of 8 is 2 pixels."""
  z, logsnr, cond = inputs(h, w, factor)
  whole = jax.jit(local)(z, logsnr, cond)
  made = jax.jit(tiling.tiled(local, 32, overlap=8))(z, logsnr, cond)
  np.testing.assert_allclose(made, whole, rtol=0, atol=2e-6)
  seams = jax.jit(tiling.tiled(local, 16, overlap=0))(z, logsnr, cond)
  assert np.abs(seams - whole).max() > 0.05


def test_a_constant_field_stays_constant():
  def constant(z_t, logsnr, cond):
    return jnp.full(z_t.shape, jnp.float32(0.37))

  z, logsnr, cond = inputs(48, 100)
  made = jax.jit(tiling.tiled(constant, 32))(z, logsnr, cond)
  np.testing.assert_allclose(made, 0.37, rtol=3e-7)


def test_one_tile_is_the_network_alone():
  z, logsnr, cond = inputs(32, 32)
  made = jax.jit(tiling.tiled(local, 32))(z, logsnr, cond)
  np.testing.assert_array_equal(made, jax.jit(local)(z, logsnr, cond))


def test_the_network_sees_tiles_alone():
  """The largest image that the network is asked for is one tile."""
  seen = []

  def spy(z_t, logsnr, cond):
    seen.append((z_t.shape[1:3], cond["x_lr"].shape[1:3]))
    return local(z_t, logsnr, cond)

  call = functools.partial(jax.eval_shape, tiling.tiled(spy, 32, overlap=8))
  assert call(*inputs(48, 128, 4)).shape == (2, 48, 128, 3)
  assert set(seen) == {((32, 32), (8, 8))}
  seen.clear()
  call(*inputs(16, 128, 4))
  assert set(seen) == {((16, 32), (4, 8))}


def test_tiles_that_cannot_cover_are_refused():
  with pytest.raises(errors.BadInput, match="overlap of 32 do not cover 64"):
    tiling.starts(64, 32, overlap=32, unit=1)
  with pytest.raises(errors.BadInput, match="multiples of 4"):
    tiling.starts(63, 32, overlap=8, unit=4)
