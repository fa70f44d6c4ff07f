"""`imagen plan`: what a config needs and how fast it may be, on a slice."""

import argparse
import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import ml_collections

from imagen_jax import build_plan, build_plan_search
from imagen_jax.cli import arguments, config, overrides
from imagen_jax.core import errors
from imagen_jax.plan import chips, estimate, table

_SUMMARY = """\
Compiles the training step of a config for a TPU slice, without a TPU, and says
whether it fits and what bounds its speed: bytes of a chip by kind against its
memory, FLOPs, what chips send each other, a roofline of the step, MFU, days and
chip-hours of config.train.steps. What is compiled is what `imagen train` runs.

A compile of a large network takes many minutes of CPU; the elapsed time is told
on stderr. What the compiler said is kept, so the same question again takes a
second. It needs libtpu: pip install "imagen_jax[plan]".

slices and machines:
  v4:8x8x4     256 chips: the sides of a box of chips (v4, v5p)
  v5e:16x16    256 chips: the sides of a rectangle (v5e, v6e)
  gpu:8xh200   8 GPUs: estimated from shapes, nothing is compiled (h100, h200)

The estimate is a bound: compute, memory and network each at its best, and the
slowest of them hides the two others. Data, checkpoints and units that are not
full are left out.

exit codes: 0 done, whether it fits or not; 2 bad arguments, or no libtpu"""

_EXAMPLES = (
  "imagen plan --config=configs/base_64.py:2b,v5e --topology=v5e:16x16",
  "two slices, with the price of a chip for an hour:",
  "imagen plan --config=configs/sr_256.py --topology=v4:8x8x4 \\",
  "  --topology=v5e:16x16 --price=1.2",
  "what sampling needs, 256 images at a time:",
  "imagen plan --config=configs/base_64.py:2b,v5e --topology=v5e:16x16 \\",
  "  --sampler --sample_batch=256",
  "one image at a time on one chip:",
  "imagen plan --config=configs/sr_1024.py --topology=v5e:1x1 \\",
  "  --config.mesh.data=1 --config.mesh.fsdp=1 --sampler=only",
  "the text encoder of 2048 captions, cut over the same mesh:",
  "imagen plan --config=configs/base_64.py:2b,v5e --topology=v5e:16x16 \\",
  "  --encoder=t5_v1_1_xxl",
  "other meshes, remat and micro-batches, the fastest that fits first:",
  "imagen plan --config=configs/base_64.py:500m --topology=v6e:4x4 --search \\",
  "  --config.train.batch_size=512",
)


def run(argv: Sequence[str]) -> None:
  """Prints a table for each slice, or JSON for all of them."""
  args, cfg = config.parse(argv, _parser())
  slices = [chips.topology(name) for name in args.topology]
  if any(where.is_tpu for where in slices):
    build_plan.check_compiler()
  jax.config.update("jax_platforms", "cpu")  # leave accelerators to others
  if args.encoder:
    overrides.apply(cfg, "text.encoder", args.encoder)
  rows = []
  for where in slices:
    if args.search:
      rows += _search(cfg, where.name, args)
    else:
      rows += _plan(cfg, where.name, args)
  if args.json:
    print(json.dumps([_as_json(*row) for row in rows], indent=2))


_Row = tuple[estimate.Facts, estimate.Estimate]


def _plan(
  cfg: ml_collections.ConfigDict, topology: str, args: argparse.Namespace
) -> list[_Row]:
  rows = []
  for program in _programs(args):
    with _telling(f"{program} step for {topology}"):
      facts = build_plan.facts(
        cfg,
        topology,
        program=program,
        sample_batch=args.sample_batch,
        cache=args.cache,
        fresh=args.fresh,
      )
    rows.append((facts, estimate.estimate(facts, price=args.price)))
    if not args.json:
      print(table.text(*rows[-1]), end="\n\n", flush=True)
  return rows


def _programs(args: argparse.Namespace) -> list[build_plan.Name]:
  if args.encoder is not None:
    return ["encode"]
  return {None: ["train"], "too": ["train", "sample"], "only": ["sample"]}[
    args.sampler
  ]


def _search(
  cfg: ml_collections.ConfigDict, topology: str, args: argparse.Namespace
) -> list[_Row]:
  rows: list[_Row] = []
  with _telling(f"candidates for {topology}", lambda: f", {len(rows)} done"):
    for facts in build_plan_search.search(cfg, topology, cache=args.cache):
      rows.append((facts, estimate.estimate(facts, price=args.price)))
  if not rows:
    raise errors.BadInput(
      f"no mesh of {topology} holds the state and divides batch_size"
      f" {cfg.train.batch_size}; use more chips or another batch."
    )
  rows = table.ranked(rows)
  if not args.json:
    print(f"training step on {topology}, batch {cfg.train.batch_size}")
    print(table.ranking(rows), end="\n\n")
    print(table.text(*rows[0]), end="\n\n", flush=True)
  return rows


@contextlib.contextmanager
def _telling(what: str, more=lambda: "") -> Iterator[None]:
  """Says on stderr how long it has taken, every 15 seconds."""
  start, done = time.monotonic(), threading.Event()

  def tell() -> None:
    while not done.wait(15.0):
      seconds = time.monotonic() - start
      line = f"imagen plan: compiling the {what}, {seconds:.0f} s{more()}"
      print(line, file=sys.stderr, flush=True)

  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


def _as_json(facts: estimate.Facts, found: estimate.Estimate) -> dict:
  return {
    "facts": estimate.as_json(facts),
    "estimate": found._asdict(),
    "advice": estimate.advice(facts, found),
  }


def _price(text: str) -> float:
  if not 0 <= float(text) < math.inf:
    raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
  return float(text)


def _count(text: str) -> int:
  if int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
  return int(text)


def _parser() -> arguments.Parser:
  parser = config.add_flag(arguments.make("plan", _SUMMARY, examples=_EXAMPLES))
  add = parser.add_argument
  add(
    "--topology", action="append", required=True, metavar="NAME",
    help="a slice or GPUs, as above (may be repeated)",
  )  # fmt: skip
  choice = parser.add_mutually_exclusive_group()
  choice.add_argument(
    "--sampler", nargs="?", const="too", choices=("too", "only"),
    help="one step of sampling, too, or (--sampler=only) in place of training",
  )  # fmt: skip
  choice.add_argument(
    "--encoder", nargs="?", const="", metavar="NAME",
    help="in place of the stage its text encoder, one batch of captions: that"
    " of the config, or a size, a folder or a T5X checkpoint",
  )  # fmt: skip
  add(
    "--sample_batch", type=_count, metavar="N",
    help="images of a step of sampling (default: one for each part of a batch),"
    " or captions (default: config.train.batch_size)",
  )  # fmt: skip
  choice.add_argument(
    "--search", action="store_true",
    help="try other meshes, remat and micro_batches; rank those that fit. Each"
    " is a compile",
  )  # fmt: skip
  add(
    "--price", type=_price, metavar="P",
    help="of a chip for an hour, in any currency: adds the cost",
  )  # fmt: skip
  add("--json", action="store_true", help="all numbers, as JSON on stdout")
  add(
    "--cache", default=build_plan.default_cache(), metavar="FOLDER",
    help="where what the compiler said is kept (default: %(default)s)",
  )  # fmt: skip
  add("--fresh", action="store_true", help="compile again, whatever is kept")
  return parser
