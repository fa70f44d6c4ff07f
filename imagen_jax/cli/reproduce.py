"""`imagen reproduce`: an image file to the same image, and whether it is."""

import argparse
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jaxtyping import UInt8

from imagen_jax import api
from imagen_jax.cascade import edits, folder, pipeline
from imagen_jax.cli import arguments, edit_record, pictures, progress, recipe
from imagen_jax.core import errors, files, images

_SUMMARY = """\
Makes an image again from what its file says made it (prompt, seed, number,
settings, hashes of the weights) and compares the two, value by value.

Says "identical" and exits with 0, or how far they differ and exits with 4. The
weights must be those of then; another version of JAX or another kind of device
may round otherwise, and it says so. What an image was made from (--init_image,
--mask, --upscale) has to be given, as its file knows no more than the hash."""

_EXAMPLES = (
  "imagen reproduce samples/a-3d-render-of-a-crab-5f0c2a91-000.png",
  "imagen reproduce crab.png --weights=runs/demo --out=again",
  "imagen reproduce pink.png --init_image=crab.png --mask=mask.png",
)


def run(argv: Sequence[str]) -> None:
  """Reads the record, checks the weights, samples and compares."""
  args = arguments.parse(argv, _parser())
  pixels, made = recipe.read(args.file)
  description = _describe(args, made)
  stages = [
    api.make_stage(entry.info.stage, made.dtype) for entry in description.stages
  ]
  asked = edit_record.asked(made.request.edit, args, args.file, stages)
  out = None if args.out is None else files.check_writable(args.out)
  cascade, params = api.load(description, dtype=made.dtype)
  request = pictures.request(
    cascade,
    description,
    seed=made.request.seed,
    batch_size=made.request.batch_size,
    edit=asked.record,
    negative_prompt=made.request.negative_prompt,
  )
  if rows := recipe.differences(made, request):
    raise errors.BadInput(
      f"{args.file} cannot be made here: {'; '.join(rows)} (then, now); use"
      " the version and the kind of device that made it."
    )
  again = _closest(
    _images(cascade, params, made, asked.edit), pixels, args.file
  )
  if out is not None:
    last = made.stage == description.names[-1]
    name = pictures.file_name(
      request, made.prompt, made.index, None if last else made.stage
    )
    images.write_png(
      out / name,
      again,
      pictures.metadata(request, made.prompt, made.index, made.stage),
    )
    print(f"written: {out / name}")
  _compare(again, pixels, args.file, made)


def _parser() -> arguments.Parser:
  parser = arguments.make("reproduce", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("file", metavar="FILE", help="a PNG that `imagen sample` wrote")
  add(
    "--weights", metavar="FOLDER",
    help="the cascade that made it; default: the shipped demo",
  )  # fmt: skip
  add(
    "--encoder", metavar="FOLDER",
    help="where the text encoder is now, if not where it was in training",
  )  # fmt: skip
  add("--out", metavar="FOLDER", help="writes the image made now as well")
  edit_record.add_flags(parser)
  return parser


def _describe(
  args: argparse.Namespace, made: recipe.Recipe
) -> folder.Description:
  """The cascade that made the image, with its settings of then."""
  description = api.describe(args.weights)
  where = "the shipped demo" if args.weights is None else args.weights
  recipe.check(made, description, where)
  description = recipe.settings(made, description)
  if args.encoder is not None:
    description = dataclasses.replace(description, encoder=args.encoder)
  api.check(description)
  return description


def _images(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  made: recipe.Recipe,
  edit: edits.Edit,
) -> UInt8[np.ndarray, "n h w 3"]:
  """The image at every place of a batch such as it was made in."""
  size = made.request.batch_size
  cascade = dataclasses.replace(cascade, images_a_program=size)
  bars = progress.Bars(cascade)
  parts = api.images(
    cascade,
    params,
    [made.prompt] * size,
    jax.random.key(made.request.seed),
    indices=[made.index],
    batch_size=size,
    progress=bars,
    edit=edit,
    negative_prompt=made.request.negative_prompt,
  )
  try:
    for part in parts:
      if cascade.stages[part.stage].name == made.stage:
        return images.to_uint8(part.images)
  finally:
    bars.close()
  raise AssertionError(f"no images of stage {made.stage!r}")


def _closest(
  again: UInt8[np.ndarray, "n h w 3"],
  pixels: UInt8[np.ndarray, "h2 w2 3"],
  name: str,
) -> UInt8[np.ndarray, "h w 3"]:
  """The image that is nearest: places of a batch may round apart."""
  if again.shape[1:] != pixels.shape:
    h, w, _ = pixels.shape
    raise errors.BadInput(
      f"{name} is {w}x{h}, and its stage makes {again.shape[2]}x"
      f"{again.shape[1]}; it was changed after it was made."
    )
  apart = np.abs(again.astype(int) - pixels.astype(int)[None])
  return again[int(np.argmin(apart.sum(axis=(1, 2, 3))))]


def _compare(
  again: UInt8[np.ndarray, "h w 3"],
  pixels: UInt8[np.ndarray, "h w 3"],
  name: str,
  made: recipe.Recipe,
) -> None:
  apart = np.abs(again.astype(int) - pixels.astype(int))
  if not apart.any():
    print(f"identical: all {apart.size} values of {name}")
    return
  here = pictures.versions()
  other = [
    f"{key} {made.versions.get(key)} then, {here.get(key)} now"
    for key in here | made.versions
    if made.versions.get(key) != here.get(key)
  ]
  for line in other:
    logging.info("%s", line)
  raise errors.DataError(
    f"{name} differs from what is made here: {np.count_nonzero(apart)} of"
    f" {apart.size} values, by {apart.max()} of 255 levels at most and"
    f" {apart.mean():.3g} on average;"
    + (
      f" made with {'; '.join(other)}."
      if other
      else " the versions are the same: its pixels were changed."
    )
  )
