"""`imagen sample`: prompts to images through the cascade."""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import UInt8

from imagen_jax import api
from imagen_jax.cascade import edits, folder, pipeline
from imagen_jax.cli import (
  arguments,
  config,
  edit_flags,
  mesh_flag,
  pictures,
  progress,
  stage_settings,
)
from imagen_jax.core import errors, files
from imagen_jax.evals import prompts as prompts_lib
from imagen_jax.train import mesh as mesh_lib

_SUMMARY = """\
Makes images from prompts, stage by stage: a small image from the text, then
larger ones from it. Writes one PNG an image, with all that made it in its
metadata, and contact_sheet.png with a row for each prompt.

Image i of a prompt depends on the weights, the prompt, the seed, i and the
settings alone, not on what else is asked for.

With --init_image it begins with a picture, and with --mask keeps a part of it;
--upscale enlarges one (docs/editing.md)."""

_EXAMPLES = (
  'imagen sample "a 3D render of a crab on a navy blue background"',
  'imagen sample --prompt="a 3D render of a fox on a green background" \\',
  '  --prompt="a 3D render of an owl on a pink background" \\',
  "  --num_samples=4 --seed=1 --out=animals",
  "imagen sample --prompts_file=prompts.txt --weights=runs/demo --out=many",
  'imagen sample "a 3D render of a cake" --guidance_weight=5,1 --steps=64,16',
  'imagen sample --prompt="" --num_samples=8      # without text',
  'imagen sample "a 3D render of a cake" --negative_prompt="a 3D render" ',
  'imagen sample --init_image=crab.png --strength=0.5 "a 3D render of a fox"',
  "imagen sample --init_image=crab.png --mask=mask.png --num_samples=4",
  "imagen sample --upscale=photo.jpg --aug_level=0.1",
  "imagen sample --config=configs/cascade.py:runs/demo \\",
  '  --config.samplers.base.sampler=ancestral "a 3D render of a rocket"',
  "in 16 and 8 steps, or as few as you like:",
  'imagen sample --config=configs/cascade.py:,few "a 3D render of a rocket"',
  "64 images on eight devices, or one, its rows cut in eight:",
  'imagen sample "a 3D render of a cake" --num_samples=64 --batch_size=64 \\',
  "  --mesh=data=8",
  'imagen sample "a 3D render of a cake" --mesh=data=1,spatial=8',
)

_MAX_SEED = 2**32 - 1


def run(argv: Sequence[str]) -> None:
  """Checks everything, loads the cascade, samples and writes."""
  started = time.monotonic()
  args, cfg = config.parse(argv, _parser())
  prompts = _prompts(args)
  _check_numbers(args)
  description = stage_settings.apply(_describe(args, cfg), args)
  negative_prompt = prompts_lib.clean(args.negative_prompt)
  api.check_negative(negative_prompt, api.check(description))
  stages = [api.make_stage(entry.info.stage) for entry in description.stages]
  asked = edit_flags.ask(args, stages)
  mesh = mesh_flag.parse(args.mesh)
  out = files.check_writable(args.out)
  cascade, params = api.load(description, dtype=args.dtype, mesh=mesh)
  request = pictures.request(
    cascade,
    description,
    seed=args.seed,
    edit=asked.record,
    batch_size=pipeline.chunk_size(
      cascade, len(prompts) * args.num_samples, args.batch_size
    ),
    mesh="" if mesh is None else mesh_lib.describe(mesh),
    negative_prompt=negative_prompt,
  )
  rows = _sample(args, prompts, cascade, params, request, asked.edit, out)
  sheet = pictures.write_sheet(out, prompts, rows)
  count = sum(map(len, rows))
  seconds = time.monotonic() - started
  print(f"{count} images in {seconds:.1f} s: {out}")
  print(f"contact sheet: {sheet}")


def _parser() -> arguments.Parser:
  parser = arguments.make("sample", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("prompts", nargs="*", metavar="PROMPT", help="a text; quote it")
  add(
    "--prompt", action="append", default=[], metavar="TEXT", dest="more",
    help="a text, as often as you like; an empty one samples without text",
  )  # fmt: skip
  add(
    "--negative_prompt", default="", metavar="TEXT",
    help="what guidance leads away from, in place of no text",
  )  # fmt: skip
  add("--prompts_file", metavar="FILE", help="one prompt a line, UTF-8")
  add("--num_samples", type=int, default=1, metavar="N", help="images a prompt")
  add("--seed", type=int, default=0, metavar="N", help="another, other images")
  add("--out", default="samples", metavar="FOLDER", help="default: samples")
  add(
    "--weights", metavar="FOLDER",
    help="a cascade that `imagen export` wrote; default: the shipped demo",
  )  # fmt: skip
  add(
    "--encoder", metavar="FOLDER",
    help="where the text encoder is now, if not where it was in training",
  )  # fmt: skip
  config.add_flag(parser, required=False)
  edit_flags.add_flags(parser)
  stage_settings.add_flags(parser)
  add(
    "--batch_size", type=int, default=api.BATCH_SIZE, metavar="N",
    help=f"images at a time, but on a CPU, where it is always one (default"
    f" {api.BATCH_SIZE}); memory and speed only",
  )  # fmt: skip
  mesh_flag.add(parser)
  add("--save_all_stages", action="store_true", help="the small images as well")
  add(
    "--dtype", choices=("float32", "bfloat16"),
    help="of the computation; default float32 on a CPU, else as trained",
  )  # fmt: skip
  return parser


def _prompts(args: argparse.Namespace) -> list[str]:
  """All prompts, each once, in order."""
  given = [*args.prompts, *args.more]
  if args.prompts_file is not None:
    given += _read_lines(args.prompts_file)
  if not given and (found := edit_flags.prompt(args)) is not None:
    given = [found]
  if not given:
    raise errors.BadInput(
      "no prompt; write one in quotes, as imagen sample"
      ' "a 3D render of a fox on a green background".'
    )
  prompts = list(dict.fromkeys(map(prompts_lib.clean, given)))
  if len(prompts) < len(given):
    logging.info("%d prompts were given twice.", len(given) - len(prompts))
  if "" in prompts:
    logging.info("The empty prompt: images without text (unconditional).")
  return prompts


def _read_lines(name: str) -> list[str]:
  """The lines of a file that hold something."""
  try:
    text = pathlib.Path(name).read_text(encoding="utf-8-sig")
  except OSError as error:
    raise errors.BadInput(
      f"cannot read --prompts_file={name} ({error.strerror})."
    ) from error
  except UnicodeDecodeError as error:
    raise errors.BadInput(
      f"--prompts_file={name} is not UTF-8 text (byte {error.start}); save it"
      " as UTF-8, one prompt a line."
    ) from error
  lines = [line for line in text.splitlines() if line.strip()]
  if not lines:
    raise errors.BadInput(f"--prompts_file={name} holds no prompt.")
  return lines


def _check_numbers(args: argparse.Namespace) -> None:
  for name in ("num_samples", "batch_size"):
    if getattr(args, name) < 1:
      raise errors.BadInput(
        f"--{name}={getattr(args, name)}; it must be at least 1."
      )
  if not 0 <= args.seed <= _MAX_SEED:
    raise errors.BadInput(
      f"--seed={args.seed}; it must be from 0 to {_MAX_SEED}."
    )


def _describe(args: argparse.Namespace, cfg) -> folder.Description:
  if args.weights is not None and cfg is not None:
    raise errors.BadInput(
      "--weights and --config both name a cascade; give one, or"
      " --config.weights=FOLDER."
    )
  description = api.describe(args.weights if cfg is None else cfg)
  if args.encoder is None:
    return description
  return dataclasses.replace(description, encoder=args.encoder)


def _sample(
  args: argparse.Namespace,
  prompts: list[str],
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  request: pictures.Request,
  edit: edits.Edit,
  out: epath.Path,
) -> list[list[UInt8[np.ndarray, "h w 3"]]]:
  """Writes the images as they come; returns the last stage's, by prompt."""
  rows: list[list] = [[] for _ in prompts]
  last = len(cascade.stages) - 1
  bars = progress.Bars(cascade)
  parts = api.images(
    cascade,
    params,
    prompts,
    jax.random.key(args.seed),
    indices=range(args.num_samples),
    batch_size=args.batch_size,
    progress=bars,
    edit=edit,
    negative_prompt=request.negative_prompt,
  )
  try:
    for part in parts:
      if part.stage < last and not args.save_all_stages:
        continue
      stage = cascade.stages[part.stage].name
      for j, image in enumerate(part.images, part.start):
        row, index = divmod(j, args.num_samples)
        name = pictures.file_name(
          request, prompts[row], index, None if part.stage == last else stage
        )
        chunks = pictures.metadata(request, prompts[row], index, stage)
        pixels = pictures.write(out, image, name, chunks)
        if part.stage == last:
          rows[row].append(pixels)
  finally:
    bars.close()
  return rows
