"""`imagen evaluate drawbench`: the images of a list of prompts, to compare."""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence

import tqdm

from imagen_jax import api
from imagen_jax.cli import arguments, draw_prompts, pictures, stage_settings
from imagen_jax.core import errors, files
from imagen_jax.evals import gallery, image_set
from imagen_jax.evals import prompts as prompts_lib

_SUMMARY = """\
Draws 8 images of each prompt of a list, as the paper does for DrawBench
(Appendix C), for people to compare with `imagen evaluate rate`, or to be
measured with `imagen evaluate clip`.

PROMPTS is a .csv or .tsv with a column of prompts and perhaps one of categories
(DrawBench's table and PartiPrompts' are such), a .txt with a prompt a line, or
"paper": ten prompts of the paper's figures. OUT gets a PNG an image, each with
its record, manifest.json, and index.html to look through, with prompts, seed
and settings. Images that are there are not drawn again, so the same line goes
on after a stop."""

_EXAMPLES = (
  "imagen evaluate drawbench --prompts=drawbench.csv --weights=runs/big \\",
  "  --out=sets/big",
  "imagen evaluate drawbench --prompts=drawbench.csv --category=Colors \\",
  "  --out=sets/colors",
  "imagen evaluate drawbench --prompts=paper --steps=16 --out=sets/paper",
)
_MAX_SEED = 2**32 - 1


def main(argv: Sequence[str]) -> None:
  """Checks everything, draws what is missing, writes manifest and gallery."""
  started = time.monotonic()
  args = arguments.parse(argv, _parser())
  _check(args)
  prompts = _prompts(args)
  description = stage_settings.apply(api.describe(args.weights), args)
  if args.encoder is not None:
    description = dataclasses.replace(description, encoder=args.encoder)
  api.check(description)
  out = files.check_writable(args.out)
  cascade, params = api.load(description, dtype=args.dtype)
  n = args.num_samples
  # As many prompts at a time as fill a batch, so that all batches are whole.
  group = min(-(-args.batch_size // n), len(prompts))
  request = pictures.request(
    cascade,
    description,
    seed=args.seed,
    batch_size=min(args.batch_size, group * n),
  )
  entries = [
    image_set.Entry(pictures.file_name(request, text, k), text, category, k)
    for text, category in prompts
    for k in range(n)
  ]
  there = {path.name for path in out.iterdir()}
  missing = list(
    dict.fromkeys(e.prompt for e in entries if e.file not in there)
  )
  with tqdm.tqdm(
    total=len(missing) * n, unit="image", disable=not missing
  ) as bar:
    draw_prompts.draw(
      cascade, params, request, missing, out,
      indices=range(n), group=group, bar=bar,
    )  # fmt: skip
  made = dataclasses.asdict(request) | {"versions": pictures.versions()}
  image_set.write(out, entries, made)
  gallery.write(image_set.read(out), _title(args.prompts))
  seconds = time.monotonic() - started
  print(
    f"{len(entries)} images of {len(prompts)} prompts,"
    f" {len(missing) * n} drawn in {seconds:.1f} s: {out}"
  )
  print(f"gallery: {out / gallery.PAGE}")


def _title(prompts: str) -> str:
  if prompts == prompts_lib.BUILT_IN:
    return "Images of prompts in the paper's figures"
  return f"Images of {pathlib.PurePath(prompts).name}"


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate drawbench", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--prompts", required=True, metavar="FILE", help='a list, or "paper"')
  add("--out", required=True, metavar="FOLDER", help="made if it is not there")
  add("--category", metavar="NAME", help="its prompts alone")
  add("--limit", type=int, metavar="N", help="the first N prompts alone")
  add(
    "--num_samples", type=int, default=8, metavar="N",
    help="images a prompt (default 8)",
  )  # fmt: skip
  add("--seed", type=int, default=0, metavar="N", help="another, other images")
  add("--weights", metavar="FOLDER", help="default: the demo that is shipped")
  add(
    "--encoder", metavar="FOLDER",
    help="where the text encoder is now, if not where it was in training",
  )  # fmt: skip
  stage_settings.add_flags(parser)
  add(
    "--batch_size", type=int, default=api.BATCH_SIZE, metavar="N",
    help=f"images at a time (default {api.BATCH_SIZE})",
  )  # fmt: skip
  add(
    "--dtype", choices=("float32", "bfloat16"),
    help="of the computation; default float32 on a CPU, else as trained",
  )  # fmt: skip
  return parser


def _check(args: argparse.Namespace) -> None:
  for name, low, high in (
    ("num_samples", 1, 1000), ("batch_size", 1, 10**6), ("limit", 1, 10**9),
    ("seed", 0, _MAX_SEED),
  ):  # fmt: skip
    value = getattr(args, name)
    if value is not None and not low <= value <= high:
      raise errors.BadInput(
        f"--{name}={value}; it must be from {low} to {high}."
      )


def _prompts(args: argparse.Namespace) -> list[prompts_lib.Prompt]:
  found = prompts_lib.read(args.prompts)
  if args.category is not None:
    known = sorted({prompt.category for prompt in found} - {""})
    found = [p for p in found if p.category == args.category]
    if not found:
      raise errors.BadInput(
        f"--category={args.category} is not in {args.prompts}; it has"
        f" {', '.join(known) or 'no categories'}."
      )
  return found[: args.limit]
