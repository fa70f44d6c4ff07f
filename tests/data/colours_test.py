"""Tests of imagen_jax.data.colours."""

import itertools

import numpy as np
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import colours


def test_colours_are_far_apart():
  table = colours.table().astype(np.float64)
  nearest = min(
    np.linalg.norm(a - b) for a, b in itertools.combinations(table, 2)
  )
  assert len(table) == 12
  assert nearest >= 94


@pytest.mark.parametrize("name", colours.NAMES)
def test_each_colour_reads_itself_and_through_noise(name):
  rgb = np.array(colours.COLOURS[name], np.uint8)
  pixels = np.broadcast_to(rgb, (16, 16, 3)).copy()
  pixels[4:12, 4:12] = 77
  assert colours.border_colour(pixels) == name
  noise = np.random.default_rng(0).normal(0, 40, pixels.shape)
  noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
  assert colours.border_colour(noisy, width=3) == name
  x = images.from_uint8(pixels)
  assert colours.border_colour(x) == name
  np.testing.assert_array_equal(colours.border(x), rgb)


def test_only_the_border_counts_and_a_few_pixels_do_not():
  pixels = np.full((8, 8, 3), 255, np.uint8)
  pixels[1:7, 1:7] = 0
  assert colours.border_colour(pixels) == "white"
  pixels[0] = 0
  assert colours.border_colour(pixels) == "white"
  pixels[:, 0] = pixels[:, 7] = 0
  assert colours.border_colour(pixels) == "black"


def test_bad_images_and_names():
  image = np.zeros((8, 8, 3), np.float32)
  with pytest.raises(errors.BadInput, match="a border of 5 pixels"):
    colours.border_colour(image, width=5)
  image[0, 0, 0] = np.nan
  with pytest.raises(errors.BadInput, match="not finite"):
    colours.border_colour(image)
  with pytest.raises(errors.BadInput, match="use one of white, black"):
    colours.index("mauve")
  assert colours.NAMES[colours.index("navy blue")] == "navy blue"
