"""Tests of imagen_jax.data.transforms."""

import io

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import colours, transforms


def _rgba(seed=0, size=64):
  """Premultiplied noise: any alpha, RGB at most alpha."""
  generator = np.random.default_rng(seed)
  alpha = generator.integers(0, 256, (size, size, 1))
  alpha[: size // 4] = 0
  rgb = (generator.uniform(size=(size, size, 3)) * (alpha + 1)).astype(int)
  rgb = np.minimum(rgb, alpha)
  return np.concatenate([rgb, alpha], -1).astype(np.uint8)


def test_paste_is_the_formula_for_all_alphas_and_colours():
  """Every (P <= alpha, B) of a coarse grid, rounded once."""
  alpha, p = np.meshgrid(np.arange(256), np.arange(0, 256, 5), indexing="ij")
  p = np.minimum(p, alpha)
  rgba = np.stack([p, p, p, alpha], -1).astype(np.uint8)[None]
  for rgb in colours.table():
    got = transforms.paste(rgba, rgb[None])[0]
    rest = (255 - alpha)[..., None] * rgb.astype(np.float64)[None, None] / 255
    np.testing.assert_array_equal(got, p[..., None] + np.round(rest))


def test_paste_rows_do_not_mix_and_clear_is_exact():
  rgba = np.stack([_rgba(i) for i in range(3)])
  rgb = colours.table()[[8, 3, 4]]
  together = transforms.paste(rgba, rgb)
  for i in range(3):
    alone = transforms.paste(rgba[i : i + 1], rgb[i : i + 1])[0]
    np.testing.assert_array_equal(together[i], alone)
    clear = together[i][rgba[i, ..., 3] == 0]
    np.testing.assert_array_equal(clear, np.broadcast_to(rgb[i], clear.shape))


def test_downscale_commutes_with_paste():
  """D(C) = D(P) + (1 - D(alpha)) B, to two levels of rounding."""
  rgba = _rgba()
  rgb = colours.table()[4:5]
  pasted = transforms.paste(rgba[None], rgb)
  full = images.resize_antialias(jnp.float32(pasted), (16, 16))
  small = transforms.paste(transforms.downscale(rgba, 16)[None], rgb)
  gap = np.abs(np.asarray(full) - small)
  assert gap.max() <= 2
  # Straight RGB averaged on its own is far off.
  straight = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
  wrong = transforms.downscale(
    np.concatenate([straight, rgba[..., 3:]], -1).astype(np.uint8), 16
  )
  wrong = np.minimum(wrong, wrong[..., 3:])
  assert np.abs(np.asarray(full) - transforms.paste(wrong[None], rgb)).max() > 9


def test_downscale_keeps_rgb_below_alpha():
  for size in (5, 16, 24, 64):
    small = transforms.downscale(_rgba(3), size)
    assert small.shape == (size, size, 4)
    assert (small[..., :3] <= small[..., 3:]).all()
  with pytest.raises(errors.BadInput, match="more than the 64x64"):
    transforms.downscale(_rgba(), 65)


def test_decode_premultiplies():
  straight = np.zeros((4, 4, 4), np.uint8)
  straight[..., :] = (200, 100, 50, 128)
  straight[0] = (255, 255, 255, 0)
  buffer = io.BytesIO()
  PIL.Image.fromarray(straight).save(buffer, "webp", lossless=True, exact=True)
  rgba = transforms.decode(buffer.getvalue(), "it")
  np.testing.assert_array_equal(rgba[1, 1], (100, 50, 25, 128))
  np.testing.assert_array_equal(rgba[0], 0)
  for bad in (b"", b"RIFF", buffer.getvalue()[:40]):
    with pytest.raises(errors.DataError, match="the image of it cannot"):
      transforms.decode(bad, "it")
