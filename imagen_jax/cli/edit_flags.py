"""Flags of `imagen sample` that begin with an image: what they say, checked.

--init_image          image to image        --strength
--init_image --mask   inpainting            --strength, --resample
--init_image --outpaint                     --resample
--upscale             an image enlarged     --aug_level, --tile
--tile                sizes by tiles        with any of them, or none
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Bool, Float

from imagen_jax.cascade import edits
from imagen_jax.cli import stage_settings
from imagen_jax.core import errors, files, images

_STRENGTH = 0.6
_RESAMPLE = 4
# A flag that means nothing without another.
_NEEDS = {
  "mask": ("init_image",),
  "strength": ("init_image",),
  "outpaint": ("init_image",),
  "resample": ("mask", "outpaint"),
}
_EXCLUDES = {
  "upscale": ("init_image",),
  "outpaint": ("mask", "strength"),
}
FLAGS = ("init_image", "mask", "strength", "resample", "outpaint", "upscale")


class Asked(NamedTuple):
  """An edit, and what of it goes into the record of an image."""

  edit: edits.Edit
  record: dict


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags as a group of their own."""
  group = parser.add_argument_group(
    "images to begin with",
    "without a prompt it is the one in the file's record, or none",
  )
  add = group.add_argument
  add("--init_image", metavar="FILE", help="a square PNG, JPEG or WebP")
  add(
    "--strength", metavar="S[,S]",
    help="of the change, 0 (none) to 1 (all); one, or one for each stage"
    f" (default {_STRENGTH}; with a mask 1)",
  )  # fmt: skip
  add(
    "--mask", metavar="FILE",
    help="an image of that size: white is painted again, black is kept",
  )  # fmt: skip
  add(
    "--outpaint", metavar="L,T,R,B",
    help="paints so many pixels left, above, right and below the image",
  )  # fmt: skip
  add(
    "--resample", type=int, metavar="N",
    help="times that each step is taken, for what is painted to fit what is"
    f" kept (default {_RESAMPLE})",
  )  # fmt: skip
  add(
    "--upscale", metavar="FILE",
    help="an image of any size, enlarged; --aug_level is how freely",
  )  # fmt: skip
  add(
    "--tile", type=int, metavar="N",
    help="pixels a side that an enlarging network sees at once; 0 is all"
    " (default: for larger images its own size)",
  )  # fmt: skip


def prompt(args: argparse.Namespace) -> str | None:
  """What goes for a prompt if none is given; None without an image."""
  name = args.init_image or args.upscale
  if name is None:
    return None
  found = images.read_png(name)[1].get("prompt", "")
  if found:
    logging.info("The prompt in the record of %s: %r.", name, found)
  return found


def ask(args: argparse.Namespace, stages: edits.Stages) -> Asked:
  """The edit that the flags ask for; `edits.NONE` if they say nothing."""
  _check_flags(args)
  if args.upscale is not None:
    edit, record = _upscale(args, stages)
  elif args.outpaint is not None:
    edit, record = _outpaint(args, stages)
  elif args.init_image is not None:
    edit, record = _init_image(args, stages)
  else:
    edit, record = edits.NONE, {}
  if args.tile is not None:
    edit = edits.with_tile(edit, stages, args.tile)
    record["tile"] = args.tile
  return Asked(edit, record)


def _check_flags(args: argparse.Namespace) -> None:
  given = {name for name in FLAGS if getattr(args, name) is not None}
  for name in sorted(given):
    needs = _NEEDS.get(name, ())
    if needs and not given & set(needs):
      raise errors.BadInput(
        f"--{name} is for {' or '.join(f'--{other}' for other in needs)};"
        " give one."
      )
    for other in _EXCLUDES.get(name, ()):
      if other in given:
        raise errors.BadInput(
          f"--{name} and --{other} do not go together; leave one out."
        )


def _upscale(
  args: argparse.Namespace, stages: edits.Stages
) -> tuple[edits.Edit, dict]:
  image = _read(args.upscale)
  return edits.upscale(stages, image), {
    "upscale": files.sha256_file(args.upscale)
  }


def _outpaint(
  args: argparse.Namespace, stages: edits.Stages
) -> tuple[edits.Edit, dict]:
  border = _border(args.outpaint)
  resample = _resample(args)
  edit = edits.outpaint(
    stages, _read(args.init_image), border, resample=resample
  )
  return edit, {
    "init_image": files.sha256_file(args.init_image),
    "outpaint": list(border),
    "resample": resample,
  }


def _init_image(
  args: argparse.Namespace, stages: edits.Stages
) -> tuple[edits.Edit, dict]:
  """All of an image, or what is white in the mask."""
  image = _read(args.init_image)
  strength = _strength(args, stages)
  record: dict = {
    "init_image": files.sha256_file(args.init_image),
    "strength": strength,
  }
  side = stages[-1].resolution
  if args.mask is None:
    image = _fitted(image, side, args.init_image)
    return edits.image_to_image(stages, image, strength=strength), record
  mask = _read_mask(args.mask)
  if mask.shape != image.shape[:2]:
    raise errors.BadInput(
      f"--mask={args.mask} is {_size(mask)} and the image {_size(image)}; give"
      " a mask of the image's size, white where it is to be painted again."
    )
  resample = _resample(args)
  edit = edits.inpaint(
    stages,
    _fitted(image, side, args.init_image),
    _shrunk_mask(mask, side),
    strength=strength,
    resample=resample,
  )
  record |= {"mask": files.sha256_file(args.mask), "resample": resample}
  return edit, record


def _strength(args: argparse.Namespace, stages: edits.Stages) -> list[float]:
  default = _STRENGTH if args.mask is None else 1.0
  if args.strength is None:
    return [default] * len(stages)
  values = stage_settings.parse_values(
    "--strength", args.strength, float, [stage.name for stage in stages]
  )
  return [default if value is None else float(value) for value in values]


def _resample(args: argparse.Namespace) -> int:
  return _RESAMPLE if args.resample is None else args.resample


def _border(text: str) -> tuple[int, int, int, int]:
  try:
    left, top, right, bottom = map(int, text.split(","))
  except ValueError:
    raise errors.BadInput(
      f"--outpaint={text}; give four whole numbers of pixels, as"
      " --outpaint=64,0,64,0 (left, above, right, below)."
    ) from None
  return left, top, right, bottom


def _read(name: str) -> Float[np.ndarray, "h w 3"]:
  return images.from_uint8(images.read_png(name)[0])


def _read_mask(name: str) -> Bool[np.ndarray, "h w"]:
  """True where it is nearer to white."""
  return images.read_png(name)[0].max(axis=-1) >= 128


def _fitted(
  image: Float[np.ndarray, "h w 3"], side: int, name: str
) -> Float[np.ndarray, "s s 3"]:
  """A square image of `side` pixels; a larger one is shrunk."""
  h, w, _ = image.shape
  if h != w or h < side:
    what = "crop it to a square" if h != w else "enlarge it first (--upscale)"
    raise errors.BadInput(
      f"{name} is {_size(image)} and the cascade makes {side}x{side}; {what}."
    )
  if h == side:
    return image
  logging.info(
    "%s is %s; it is shrunk to %dx%d.", name, _size(image), side, side
  )
  small = images.resize_antialias(jnp.asarray(image)[None], (side, side))
  return np.asarray(small[0])


def _shrunk_mask(mask: Bool[np.ndarray, "h w"], side: int) -> np.ndarray:
  """True where anything is; at its own size as it is."""
  if mask.shape == (side, side):
    return mask
  white = jnp.asarray(mask, jnp.float32)[None, :, :, None]
  return (
    np.asarray(images.resize_antialias(white, (side, side))[0, :, :, 0]) > 0
  )


def _size(x: np.ndarray | Sequence) -> str:
  return f"{np.shape(x)[1]}x{np.shape(x)[0]}"
