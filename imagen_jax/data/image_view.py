"""What a batch shows of an example: caption, square, flip and crop.

All of it follows from the example, the view, and five numbers in [0, 1) that
the pipeline draws for the position, so the same position shows the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.core import errors, shapes
from imagen_jax.data import decode, examples, image_transforms

DRAWS = ("caption", "place", "flip", "top", "left")

PLACES = ("centre", "random")


@dataclasses.dataclass(frozen=True)
class View:
  """What is shown of an image."""

  resolution: int  # of the whole square
  low_resolution: int | None = None  # of x_lr, for super-resolution
  crop: int | None = None  # pixels of a random window; None is the whole
  place: str = "centre"  # of PLACES: the square along the longer side
  flip_probability: float = 0.0
  # A caption with one of these words is never flipped.
  flip_exempt: tuple[str, ...] = ("left", "right")
  upscale: bool = False  # enlarge smaller images, which are left out otherwise

  @property
  def grid(self) -> int:
    """Pixels of the image to one of x_lr."""
    return self.resolution // (self.low_resolution or self.resolution)


class Row(NamedTuple):
  """One example of a batch, before the batch is stacked."""

  key: str
  caption: str
  pixels: image_transforms.Pair


def check(view: View) -> None:
  """Raises BadInput for sizes that do not fit, or an unknown place."""
  if view.resolution < 1:
    raise errors.BadInput(f"resolution {view.resolution} must be at least 1.")
  if view.low_resolution is not None:
    shapes.check_divisible(view.resolution, view.low_resolution, "resolution")
  if view.crop is not None:
    shapes.check_divisible(view.crop, view.grid, "crop")
    if not 1 <= view.crop <= view.resolution:
      raise errors.BadInput(
        f"crop {view.crop} is not in 1 to the resolution {view.resolution}."
      )
  if view.place not in PLACES:
    raise errors.BadInput(
      f"place {view.place!r} is not known; use {' or '.join(PLACES)}."
    )
  if not 0 <= view.flip_probability <= 1:
    raise errors.BadInput(
      f"flip_probability {view.flip_probability} is not in [0, 1]."
    )


def show(example: examples.Example, view: View, chance: Sequence[float]) -> Row:
  """The row of an example; DataError or decode.Skip if it cannot be used.

  `chance` are uniform numbers in [0, 1), in the order of `DRAWS`.
  """
  which, place, flip, top, left = chance
  caption = example.captions[int(which * len(example.captions))]
  whole = image_transforms.square(
    decode.decode(example.image),
    view.resolution,
    0.5 if view.place == "centre" else place,
    upscale=view.upscale,
  )
  if flip < view.flip_probability and not image_transforms.has_word(
    caption, view.flip_exempt
  ):
    whole = whole[:, ::-1]
  places = 1
  if view.crop is not None:
    places = (view.resolution - view.crop) // view.grid + 1
  pixels = image_transforms.pair(
    whole,
    low_resolution=view.low_resolution,
    crop=view.crop,
    corner=(int(top * places), int(left * places)),
  )
  return Row(example.key, caption, pixels)
