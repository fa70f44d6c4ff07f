"""What an edit means for one stage: its image, mask, size and steps.

  plans, image, mask, size   for all images of the stage: `prepare`
  z, edit                    for one chunk of them: `start`

The image is shrunk to the stage's size as x_lr of training is. A pixel of a
small stage is known if all that it covers is known in the last.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imagen_jax.cascade import edits, runner
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import images, rng
from imagen_jax.core.arrays import Image, Keys
from imagen_jax.diffusion import editing, sampling


class Part(NamedTuple):
  """What of an edit concerns one stage."""

  plans: list[sampling.Plan]
  first: int  # steps left out
  image: Float[np.ndarray, "h w 3"] | None
  mask: Bool[np.ndarray, "h w"] | None
  resample: int
  size: tuple[int, int] | None  # if it is not the stage's own
  tile: int | None
  crop: tuple[int, int] | None


def prepare(
  edit: edits.Edit,
  stages: edits.Stages,
  k: int,
  settings: sampling.SamplerSettings,
) -> Part:
  """What of an edit concerns stage k."""
  stage = stages[k]
  shrink = stages[-1].resolution // stage.resolution
  h, w = _drawn(edit, stages, k)
  strength = edit.strength[k] if edit.strength else 1.0
  first = settings.steps - editing.steps_taken(strength, settings.steps)
  mask = None if edit.mask is None else _any_of(edit.mask, shrink)
  image = None if edit.image is None else _smaller(edit.image, (h, w))
  plans = []
  if first < settings.steps:
    rows = sampling.plan(settings, stage.schedule, first=first)
    if mask is not None:
      rows = editing.plan(rows, resample=edit.resample)
    plans = runner.split(rows)
  crop = edit.crop
  if crop is not None:
    crop = -(-crop[0] // shrink), -(-crop[1] // shrink)
  own = (stage.resolution, stage.resolution)
  return Part(
    plans=plans,
    first=first,
    image=image,
    mask=mask,
    resample=edit.resample,
    size=None if (h, w) == own else (h, w),
    tile=_tile(edit, stage, max(h, w)),
    crop=crop,
  )


def start(part: Part, stage: stage_lib.Stage, keys: Keys) -> runner.Start:
  """What the run of a chunk begins with, an image for each of `keys`."""
  if part.image is None:
    return runner.Start(size=part.size, tile=part.tile)
  x0 = _repeat(part.image, keys.shape[0])
  # DeepFloyd IF's known pixels have no noise, from the start on.
  clean = stage.discrete and part.mask is not None and part.resample == 1
  z = None
  if part.first or clean:
    z = x0
    if part.plans:
      z = _noised(stage.name, x0, keys, jnp.float32(part.plans[0].logsnr[0]))
  keep = None
  if part.mask is not None:
    mask = _repeat(part.mask[:, :, None], keys.shape[0])
    known = editing.Known(x0, mask)
    if clean:
      z = jnp.where(mask, z, x0)
      keep = editing.keep_clean(known)
    else:
      keep = editing.keep(known, resample=part.resample)
  return runner.Start(z, part.first, keep, part.size, part.tile)


def first_x_lr(edit: edits.Edit, n: int) -> Float[np.ndarray, "n p q 3"] | None:
  """The image that the first stage drawn enlarges, n times; None for a base."""
  if edit.x_lr is None:
    return None
  return np.broadcast_to(edit.x_lr, (n, *edit.x_lr.shape))


def cropped(
  part: Part, drawn: Float[np.ndarray, "n h w 3"]
) -> Float[np.ndarray, "n h2 w2 3"]:
  """The part of the images that was asked for."""
  return (
    drawn if part.crop is None else drawn[:, : part.crop[0], : part.crop[1]]
  )


@partial(jax.jit, static_argnums=0)
def _noised(
  name: str, x0: Image, keys: Keys, logsnr: Float[Array, ""]
) -> Image:
  return editing.noised(x0, rng.each_key_for(keys, name), logsnr)


def _repeat(x: np.ndarray, n: int) -> Array:
  return jnp.asarray(np.broadcast_to(x, (n, *x.shape)))


def _smaller(
  image: Float[np.ndarray, "h w 3"], size: tuple[int, int]
) -> Float[np.ndarray, "h2 w2 3"]:
  """As x_lr of training is made of x_hr; at the same size it is the image."""
  if image.shape[:2] == size:
    return image
  return np.asarray(images.resize_antialias(jnp.asarray(image)[None], size)[0])


def _any_of(mask: Bool[np.ndarray, "h w"], factor: int) -> np.ndarray:
  h, w = mask.shape
  return mask.reshape(h // factor, factor, w // factor, factor).any((1, 3))


def _drawn(edit: edits.Edit, stages: edits.Stages, k: int) -> tuple[int, int]:
  """Height and width of what stage k makes, filling included."""
  side = stages[k].resolution
  if edit.image is not None:
    shrink = stages[-1].resolution // side
    return edit.image.shape[0] // shrink, edit.image.shape[1] // shrink
  if edit.x_lr is not None:
    factor = side // (stages[edit.first].low_resolution or side)
    return edit.x_lr.shape[0] * factor, edit.x_lr.shape[1] * factor
  return side, side


def _tile(edit: edits.Edit, stage: stage_lib.Stage, side: int) -> int | None:
  """The tile's side; None if the network sees the whole."""
  base = stage.low_resolution is None
  tile = stage.resolution if base or edit.tile is None else edit.tile
  return tile if 0 < tile < side else None
