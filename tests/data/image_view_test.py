"""Tests of imagen_jax.data.image_view."""

import dataclasses

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import decode, examples, image_view
from tests import image_sets

VIEW = image_view.View(64, low_resolution=16, flip_probability=0.5)
# A PNG is decoded to what it was made of.
PIXELS = image_sets.photo(96, 64)
PHOTO = examples.Example("key", "a cup", image_sets.encode(PIXELS, "png"))


def _show(example=PHOTO, view=VIEW, **chances):
  numbers = dict.fromkeys(image_view.DRAWS, 0.9) | chances
  return image_view.show(example, view, [numbers[n] for n in image_view.DRAWS])


def test_the_square_is_in_the_centre_or_anywhere():
  centre = _show(place=0.01)
  np.testing.assert_array_equal(centre.pixels.image, PIXELS[:, 16:80])
  view = dataclasses.replace(VIEW, place="random")
  for place in (0.0, 0.4, 0.999):
    left = int(place * 33)
    made = _show(view=view, place=place).pixels.image
    np.testing.assert_array_equal(made, PIXELS[:, left : left + 64])


def test_flips_go_with_x_lr_and_follow_the_probability():
  plain, flipped = _show(flip=0.5), _show(flip=0.49)
  np.testing.assert_array_equal(
    plain.pixels.image[:, ::-1], flipped.pixels.image
  )
  gap = np.abs(plain.pixels.x_lr[:, ::-1] - flipped.pixels.x_lr.astype(int))
  assert gap.max() <= 1
  assert np.abs(plain.pixels.x_lr - flipped.pixels.x_lr.astype(int)).max() > 50
  never = dataclasses.replace(VIEW, flip_probability=0.0)
  same = _show(view=never, flip=0.0)
  np.testing.assert_array_equal(same.pixels.image, plain.pixels.image)


def test_captions_that_say_left_or_right_are_not_flipped():
  sided = dataclasses.replace(PHOTO, caption="a cup, left of a plate")
  plain = _show(flip=0.9).pixels.image
  np.testing.assert_array_equal(_show(sided, flip=0.0).pixels.image, plain)
  free = dataclasses.replace(VIEW, flip_exempt=())
  flipped = _show(sided, free, flip=0.0).pixels.image
  np.testing.assert_array_equal(flipped, plain[:, ::-1])


def test_each_caption_is_drawn_equally_and_decides_on_the_flip():
  texts = ["a cup", "a cup to the left", "cup"]
  several = dataclasses.replace(PHOTO, extra={"captions": texts})
  for i, text in enumerate(texts):
    for chance in (i / 3 + 1e-9, (i + 0.999) / 3):
      made = _show(several, caption=chance, flip=0.0)
      assert made.caption == text
      left = made.pixels.image[:, ::-1] if i != 1 else made.pixels.image
      np.testing.assert_array_equal(left, PIXELS[:, 16:80])


def test_corners_reach_the_whole_grid():
  view = dataclasses.replace(VIEW, crop=32, flip_probability=0.0)
  whole = _show(view=dataclasses.replace(view, crop=None)).pixels
  for top, left, y, x in ((0.0, 0.999, 0, 8), (0.999, 0.5, 8, 4)):
    made = _show(view=view, top=top, left=left).pixels
    image = whole.image[4 * y : 4 * y + 32, 4 * x : 4 * x + 32]
    np.testing.assert_array_equal(made.image, image)
    np.testing.assert_array_equal(made.x_lr, whole.x_lr[y : y + 8, x : x + 8])


def test_what_cannot_be_used_says_why():
  with pytest.raises(decode.Skip, match="not a JPEG"):
    _show(dataclasses.replace(PHOTO, image=b"GIF89a"))
  with pytest.raises(errors.DataError, match="96x64 is smaller"):
    _show(view=image_view.View(65))
  larger = _show(view=image_view.View(65, upscale=True))
  assert larger.pixels.image.shape == (65, 65, 3)


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"resolution": 0}, "resolution 0"),
    ({"low_resolution": 24}, "resolution 64 is not divisible by 24"),
    ({"crop": 30}, "crop 30 is not divisible by 4"),
    ({"crop": 128}, "crop 128 is not in 1 to"),
    ({"crop": -4}, "crop -4"),
    ({"place": "top"}, "place 'top' is not known; use centre or random"),
    ({"flip_probability": 1.5}, "flip_probability 1.5"),
    ({"flip_probability": float("nan")}, "flip_probability nan"),
  ],
)
def test_views_that_do_not_fit(changes, match):
  image_view.check(VIEW)
  with pytest.raises(errors.BadInput, match=match):
    image_view.check(dataclasses.replace(VIEW, **changes))
