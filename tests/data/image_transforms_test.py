"""Tests of imagen_jax.data.image_transforms."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import image_transforms
from tests import image_sets


@pytest.mark.parametrize(("height", "width"), [(8, 13), (13, 8), (8, 8)])
def test_places_reach_each_square_equally(height, width):
  pixels = np.arange(height * width * 3).reshape(height, width, 3)
  pixels = pixels.astype(np.uint8)
  offsets = abs(height - width) + 1
  found = []
  for i in range(offsets):
    for place in (i / offsets, (i + 0.999) / offsets):
      made = image_transforms.square(pixels, 8, place)
      top, left = (i, 0) if height > width else (0, i)
      expected = pixels[top : top + 8, left : left + 8]
      np.testing.assert_array_equal(made, expected)
      found.append(made.tobytes())
  assert len(set(found)) == offsets
  last = image_transforms.square(pixels, 8, 1.0)
  np.testing.assert_array_equal(last, pixels[-8:, -8:])


def test_the_centre_is_the_centre():
  pixels = image_sets.photo(30, 11)
  made = image_transforms.square(pixels, 11, 0.5)
  np.testing.assert_array_equal(made, pixels[:, 10:21])


@pytest.mark.parametrize("size", [10, 24, 32])
def test_made_smaller_without_aliasing(size):
  """As JAX resizes with antialiasing, up to rounding; not each nth pixel."""
  noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
  made = image_transforms.square(noise, size, 0.5)
  expected = images.resize_antialias(jnp.float32(noise)[None], (size, size))[0]
  gap = np.abs(np.asarray(expected) - made)
  assert gap.max() <= 1.5 and gap.mean() < 0.5
  every = noise[:: 96 // size, :: 96 // size][:size, :size]
  assert np.abs(np.asarray(expected) - every).mean() > 40


def test_small_images_are_refused_or_enlarged():
  pixels = image_sets.photo(40, 24)
  with pytest.raises(errors.DataError, match="40x24 is smaller than .* 32"):
    image_transforms.square(pixels, 32, 0.5)
  made = image_transforms.square(pixels, 32, 0.5, upscale=True)
  assert made.shape == (32, 32, 3)
  assert abs(made.mean() - pixels[:, 8:32].mean()) < 2
  assert image_transforms.square(pixels, 24, 0.5).shape == (24, 24, 3)


@pytest.mark.parametrize("corner", [(0, 0), (3, 11), (12, 12)])
def test_crops_lie_on_the_grid_of_x_lr(corner):
  whole = image_sets.photo(64, 64)
  options = {"low_resolution": 16, "corner": corner}
  full = image_transforms.pair(whole, crop=None, **options)
  np.testing.assert_array_equal(full.image, whole)
  made = image_transforms.pair(whole, crop=16, **options)
  top, left = corner
  np.testing.assert_array_equal(
    made.x_lr, full.x_lr[top : top + 4, left : left + 4]
  )
  np.testing.assert_array_equal(
    made.image, whole[4 * top : 4 * top + 16, 4 * left : 4 * left + 16]
  )


def test_a_base_stage_has_no_x_lr():
  whole = image_sets.photo(16, 16)
  made = image_transforms.pair(
    whole, low_resolution=None, crop=8, corner=(1, 5)
  )
  np.testing.assert_array_equal(made.image, whole[1:9, 5:13])
  assert made.x_lr is None


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("a cup on the left", True),
    ("LEFT-handed", True),
    ("Right.", True),
    ("bright leftovers", False),
    ("", False),
    ("rechts", False),
  ],
)
def test_words(text, expected):
  assert image_transforms.has_word(text, ("left", "right")) is expected
  assert image_transforms.has_word(text, ()) is False


def test_words_are_no_patterns():
  assert image_transforms.has_word("a.b", ("a.b",))
  assert not image_transforms.has_word("axb", ("a.b",))
