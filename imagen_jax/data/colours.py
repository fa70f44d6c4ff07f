"""Twelve named background colours, and reading a background's name back.

The colours are far apart in RGB (at least 94 levels of 441 between any two), so
that the nearest name to the median border pixel of an image tells which of them
a model painted.
"""

import numpy as np
from jaxtyping import Array, Float, UInt8

from imagen_jax.core import errors, images

# The order is part of the data set: a colour's index is its place here.
COLOURS: dict[str, tuple[int, int, int]] = {
  "white": (255, 255, 255),
  "black": (0, 0, 0),
  "gray": (128, 128, 128),
  "red": (220, 30, 40),
  "orange": (250, 140, 20),
  "yellow": (255, 225, 60),
  "green": (40, 150, 60),
  "sky blue": (110, 195, 250),
  "navy blue": (20, 30, 110),
  "purple": (135, 50, 190),
  "pink": (255, 150, 200),
  "brown": (115, 65, 25),
}
NAMES: tuple[str, ...] = tuple(COLOURS)

Pixels = (
  Float[Array, "h w 3"]
  | Float[np.ndarray, "h w 3"]
  | UInt8[np.ndarray, "h w 3"]
)


def table() -> UInt8[np.ndarray, "colours 3"]:
  """RGB of every colour, in the order of `NAMES`."""
  return np.array(list(COLOURS.values()), np.uint8)


def index(name: str) -> int:
  """The place of a colour in `NAMES`; BadInput lists the names otherwise."""
  if name not in COLOURS:
    raise errors.BadInput(
      f"unknown colour {name!r}; use one of {', '.join(NAMES)}."
    )
  return NAMES.index(name)


def nearest(rgb: Float[np.ndarray, "3"]) -> str:
  """The named colour at the smallest Euclidean distance in RGB (0..255)."""
  if not np.isfinite(rgb).all():
    raise errors.BadInput(f"colour {rgb.tolist()} is not finite.")
  distance = np.square(table().astype(np.float64) - rgb[None]).sum(-1)
  return NAMES[int(distance.argmin())]


def border(image: Pixels, *, width: int = 1) -> Float[np.ndarray, "3"]:
  """Median RGB (0..255) of the frame of `width` pixels around an image.

  The image is uint8, or float in [-1, 1].
  """
  pixels = np.asarray(image)
  height, across, _ = pixels.shape
  if not 0 < 2 * width <= min(height, across):
    raise errors.BadInput(
      f"a border of {width} pixels does not fit in an image of"
      f" {height}x{across}; use 1 to {min(height, across) // 2}."
    )
  if not np.isfinite(pixels).all():
    raise errors.BadInput("the image has pixels that are not finite.")
  if pixels.dtype != np.uint8:
    pixels = images.to_uint8(pixels)
  inside = np.zeros((height, across), bool)
  inside[width : height - width, width : across - width] = True
  return np.median(pixels[~inside].astype(np.float64), axis=0)


def border_colour(image: Pixels, *, width: int = 1) -> str:
  """The name of the colour nearest to the median pixel of the border."""
  return nearest(border(image, width=width))
