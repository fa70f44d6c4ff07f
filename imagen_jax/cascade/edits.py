"""Edits: what a cascade is given beside text, and what each stage makes of it.

  image_to_image  every stage begins at q_sample of the image (SDEdit), which
                  it sees at its own size; strength 0 is the image itself, 1
                  is text alone, to the bit
  inpaint         what is black in the mask is kept, in every stage (RePaint);
                  known pixels are the image's, to the bit
  outpaint        inpaint on a larger canvas, whose sides may differ
  upscale         the stages that enlarge, alone, from an image of any size

Sizes other than a stage's own are drawn by tiles of its own (`tiling`): a base
always, a super-resolution stage unless `tile` says otherwise.

An `Edit` is of one image, for all that are made; `edit_parts` is what of it
concerns a stage.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.diffusion import editing

_MAX_SIDE = 16384  # pixels of what is made


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
  """What is asked for; made by the functions below. Images are in [-1, 1]."""

  first: int = 0  # the first stage that is drawn
  x_lr: Float[np.ndarray, "p q 3"] | None = None  # what that stage enlarges
  image: Float[np.ndarray, "h w 3"] | None = None  # as the last stage makes it
  mask: Bool[np.ndarray, "h w"] | None = None  # true: repaint; false: known
  strength: tuple[float, ...] = ()  # of each stage; () is 1 for all
  resample: int = 1
  tile: int | None = None  # of stages that enlarge: None is their own, 0 none
  crop: tuple[int, int] | None = None  # the part that was asked for


NONE = Edit()
Stages: TypeAlias = Sequence[stage_lib.Stage]


def image_to_image(
  stages: Stages,
  image: Float[np.ndarray, "h w 3"],
  *,
  strength: Sequence[float],
) -> Edit:
  """An edit of the whole image; one strength in [0, 1] for each stage."""
  _check_image(stages, image)
  return Edit(image=image, strength=_strengths(stages, strength))


def inpaint(
  stages: Stages,
  image: Float[np.ndarray, "h w 3"],
  mask: Bool[np.ndarray, "h2 w2"],
  *,
  strength: Sequence[float],
  resample: int,
) -> Edit:
  """Paints again where `mask` is true; each step `resample` times."""
  _check_image(stages, image)
  if mask.shape != image.shape[:2]:
    raise errors.BadInput(
      f"the mask is {_size(mask)} and the image {_size(image)}; give a mask of"
      " the image's size, white where it is to be painted again."
    )
  if mask.all() or not mask.any():
    what, then = (
      ("white: nothing is kept", "sample without an image")
      if mask.any()
      else ("black: nothing is repainted", "paint white what is to change")
    )
    raise errors.BadInput(f"the mask is all {what}; {then}.")
  editing.check(resample=resample)
  return Edit(
    image=image,
    mask=mask,
    strength=_strengths(stages, strength),
    resample=resample,
  )


def outpaint(
  stages: Stages,
  image: Float[np.ndarray, "h w 3"],
  border: tuple[int, int, int, int],
  *,
  resample: int,
) -> Edit:
  """Paints around the image: `border` pixels left, above, right and below."""
  side = stages[-1].resolution
  if min(border) < 0 or not any(border):
    raise errors.BadInput(
      f"a border of {border} pixels; each must be 0 or more, and one above 0."
    )
  left, top, right, bottom = border
  h, w = image.shape[0] + top + bottom, image.shape[1] + left + right
  if min(h, w) < side:
    raise errors.BadInput(
      f"with its border the image is {w}x{h}; the cascade makes {side}x{side},"
      " and neither side may be less."
    )
  _check_side(h, w)
  editing.check(resample=resample)
  unit = _unit(stages, stages[-1].resolution // stages[0].resolution)
  around = ((top, bottom + -h % unit[0]), (left, right + -w % unit[1]))
  return Edit(
    image=np.pad(image, (*around, (0, 0)), mode="edge"),
    mask=np.pad(np.zeros(image.shape[:2], bool), around, constant_values=True),
    resample=resample,
    crop=(h, w),
  )


def upscale(stages: Stages, x_lr: Float[np.ndarray, "p q 3"]) -> Edit:
  """Enlarges by the stages that were made for images of that size, and later.

  The first is the smallest whose x_lr has that many pixels a side, else the
  last.
  """
  lows = [stage.low_resolution for stage in stages]
  if lows[-1] is None:
    raise errors.BadInput(
      f"stage {stages[-1].name!r} enlarges nothing; give a cascade with a"
      " super-resolution stage."
    )
  p, q, _ = x_lr.shape
  fit = [k for k, low in enumerate(lows) if low and low >= max(p, q)]
  first = fit[0] if fit else len(stages) - 1
  factor = stages[-1].resolution // lows[first]
  _check_side(p * factor, q * factor)
  # Filled up, so that the networks can divide it; cut off again at the end.
  down, across = (n // factor for n in _unit(stages[first:], factor))
  filled = np.pad(x_lr, ((0, -p % down), (0, -q % across), (0, 0)), mode="edge")
  return Edit(first=first, x_lr=filled, crop=(p * factor, q * factor))


def with_tile(edit: Edit, stages: Stages, tile: int) -> Edit:
  """The same, its enlarging stages by tiles of `tile` pixels; 0 is no tiles."""
  unit = math.lcm(
    *(
      n
      for stage in stages
      if stage.low_resolution
      for n in _unit([stage], stage.resolution // stage.low_resolution)
    )
  )
  if tile < 0 or tile % unit:
    raise errors.BadInput(
      f"tile is {tile}; it must be a multiple of {unit} pixels, or 0 for none."
    )
  return dataclasses.replace(edit, tile=tile)


def _unit(stages: Stages, factor: int) -> tuple[int, int]:
  """What height and width of the last stage must be multiples of.

  A multiple of `factor`, and of what each network divides by at its own size.
  """
  units = [factor, factor]
  for stage in stages:
    shrink = stages[-1].resolution // stage.resolution
    for axis, stride in enumerate(stage.module.strides()):
      units[axis] = math.lcm(units[axis], stride * shrink)
  return units[0], units[1]


def _check_image(stages: Stages, image: np.ndarray) -> None:
  side = stages[-1].resolution
  if image.shape[:2] != (side, side):
    raise errors.BadInput(
      f"the image is {_size(image)} and the cascade makes {side}x{side}; give"
      " one of that size."
    )


def _strengths(stages: Stages, strength: Sequence[float]) -> tuple[float, ...]:
  if len(strength) != len(stages):
    raise errors.BadInput(
      f"{len(strength)} strengths for {len(stages)} stages; give one for each."
    )
  for value in strength:
    editing.check(strength=value)
  return tuple(map(float, strength))


def _check_side(h: int, w: int) -> None:
  if max(h, w) > _MAX_SIDE:
    raise errors.BadInput(
      f"the result would be {w}x{h} pixels; {_MAX_SIDE} a side is the most:"
      " give a smaller image, or a part of it."
    )


def _size(x: np.ndarray) -> str:
  return f"{x.shape[1]}x{x.shape[0]}"
