"""Host numpy on photos: the square, its low-resolution twin, flip and crop.

  [h w 3]  --square-->  [s s 3]  --flip-->  [s s 3]  --pair-->  image, x_lr

`x_lr` is the antialiased downscale of the whole square, as the stage below
makes it, and a crop is cut from both on the grid of `x_lr`: with s = 1024, a
low resolution of 256 and a crop of 256, image [256 256 3] and x_lr [64 64 3]
show the same part.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.core import errors

Rgb = UInt8[np.ndarray, "h w 3"]


class Pair(NamedTuple):
  """What a stage learns to make, and what it makes it from."""

  image: Rgb
  x_lr: Rgb | None  # None for a base stage


def square(
  pixels: Rgb, size: int, place: float, *, upscale: bool = False
) -> UInt8[np.ndarray, "{size} {size} 3"]:
  """The largest square, resized; `place` in [0, 1] along the longer side.

  A smaller image is DataError, unless `upscale`.
  """
  height, width, _ = pixels.shape
  side = min(height, width)
  if side < size and not upscale:
    raise errors.DataError(
      f"{width}x{height} is smaller than the resolution {size}."
    )
  # place < 1 reaches each of (longer - side + 1) offsets equally.
  top, left = (
    min(int(place * (n - side + 1)), n - side) for n in (height, width)
  )
  return _resize(pixels[top : top + side, left : left + side], size)


def _resize(
  pixels: UInt8[np.ndarray, "s s 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
  """Bilinear; made smaller, with a triangle as wide as the step."""
  if len(pixels) == size:
    return pixels
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
  return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))


def pair(
  whole: UInt8[np.ndarray, "s s 3"],
  *,
  low_resolution: int | None,
  crop: int | None,
  corner: tuple[int, int],
) -> Pair:
  """The crop at `corner` (top and left in pixels of x_lr), or the whole."""
  low = None if low_resolution is None else _resize(whole, low_resolution)
  if crop is None:
    return Pair(whole, low)
  grid = 1 if low is None else len(whole) // len(low)
  top, left = corner
  image = _window(whole, top * grid, left * grid, crop)
  if low is not None:
    low = _window(low, top, left, crop // grid)
  return Pair(image, low)


def _window(
  pixels: Rgb, top: int, left: int, side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
  return pixels[top : top + side, left : left + side]


def has_word(text: str, words: Sequence[str]) -> bool:
  """Whether one of the words stands in the text, in any case."""
  if not words:
    return False
  either = "|".join(re.escape(word) for word in words)
  return re.search(rf"\b(?:{either})\b", text, re.IGNORECASE) is not None
