"""`imagen evaluate ablate`: the paper's ablations, each to plot and finding.

A file of `configs/ablations/` says what is compared (see its `common.py`). Arms
that are to be trained are ordinary runs in OUT/NAME/ARM, which `imagen train`
may also have made, on another machine.
"""

import argparse
import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from etils import epath
from jaxtyping import Float

from imagen_jax import api, build, build_training
from imagen_jax.cascade import folder
from imagen_jax.cli import (
  ablate_report,
  arguments,
  config,
  emoji_sweep,
  export,
)
from imagen_jax.core import errors, files
from imagen_jax.evals import emoji_measure, sweeps
from imagen_jax.train import checkpoints, record

_NEEDS_NO_TRAINING = ("guidance", "thresholding", "aug_level")
NAMES = (
  *_NEEDS_NO_TRAINING,
  "conditioning",
  "text_encoder",
  "unet_size",
  "noise_augmentation",
  "efficient_unet",
)
_FOLDER = "configs/ablations"
_PAPER = "paper"

_SUMMARY = f"""\
Runs the paper's ablations: draws held-out prompts of the emoji set with each
arm, measures them, and ends in a plot like the paper's figure and one sentence
of what the numbers say, with 95 % intervals.

  of the weights given:  {", ".join(_NEEDS_NO_TRAINING)}
  of arms it trains:     {", ".join(NAMES[3:])}

At demo scale (the default) all run on two CPU cores on the shipped data; arms
are then networks of 16 or 32 pixels and a few hundred updates. --size=paper has
the paper's networks, batch and steps: train each arm on a slice with
`imagen train --config={_FOLDER}/NAME.py:ARM,paper --workdir=OUT/NAME/ARM`, and
the same line measures what is there, or goes on training it.

OUT/NAME/ gets results.jsonl, plot.png, finding.txt, report.html and a workdir
an arm. The same line goes on after a stop. Machines take one --only each."""

_EXAMPLES = (
  "imagen evaluate ablate --out=ablations",
  "imagen evaluate ablate --only=thresholding --out=ablations",
  "imagen evaluate ablate --only=conditioning --prompts=32 --out=ablations",
  "imagen evaluate ablate --updates=60 --prompts=24 --out=quick",
  "imagen evaluate ablate --only=aug_level --weights=runs/demo --out=ablations",
)


class _Plan(NamedTuple):
  """An ablation that was checked, before anything is drawn."""

  name: str
  config: ml_collections.ConfigDict
  points: list[sweeps.Point]


def main(argv: Sequence[str]) -> None:
  """Checks all that is asked for, then runs one after the other."""
  args = arguments.parse(argv, _parser())
  plans = [_plan(name, args) for name in args.only or NAMES]
  out = files.check_writable(args.out)
  for number, plan in enumerate(plans, 1):
    print(f"[{number}/{len(plans)}] {plan.config.title}", flush=True)
    _run(plan, out / plan.name, args)


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate ablate", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--out", required=True, metavar="FOLDER", help="made if it is not there")
  add(
    "--only", action="append", choices=NAMES, metavar="NAME",
    help=f"one ablation (may be repeated): {', '.join(NAMES)}",
  )  # fmt: skip
  add("--size", choices=("demo", _PAPER), default="demo", help="default: demo")
  add(
    "--weights", metavar="FOLDER",
    help="of ablations that train nothing; default: the demo that is shipped",
  )  # fmt: skip
  add(
    "--prompts", type=int, metavar="N",
    help="held-out pairs of the emoji set; default: what the config says",
  )  # fmt: skip
  add(
    "--updates", type=int, metavar="N",
    help="of each arm that is trained, at demo scale; default: what the config"
    " says, 300 or 400",
  )  # fmt: skip
  add(
    "--batch_size", type=int, default=32, metavar="N",
    help="images drawn at a time; memory and speed only (default 32)",
  )  # fmt: skip
  return parser


def _plan(name: str, args: argparse.Namespace) -> _Plan:
  suffix = f":{_PAPER}" if args.size == _PAPER else ""
  cfg = config.load(
    f"{_FOLDER}/{name}.py{suffix}"
  ).copy_and_resolve_references()
  cfg.unlock()
  if args.prompts is not None:
    cfg.prompts = args.prompts
  if args.weights is not None:
    cfg.weights = args.weights
  if args.updates is not None:
    _shorten(cfg, args)
  arms = {"arm": tuple(cfg.arms)} if cfg.arms else {}
  for arm in cfg.arms.values():
    build.stage(arm.stage)
  axes = {name: tuple(values) for name, values in _in_order(cfg).items()}
  return _Plan(name, cfg, sweeps.grid(arms | axes))


def _shorten(cfg: ml_collections.ConfigDict, args: argparse.Namespace) -> None:
  """Arms of so many updates; what is measured on the way, evenly spaced."""
  parts = len(cfg.axes.get("updates", (0,)))
  if args.size == _PAPER or args.updates < parts:
    raise errors.BadInput(
      f"--updates={args.updates}; it is of arms at demo scale, {parts} or more."
    )
  step = args.updates // parts
  if "updates" in cfg.axes:
    cfg.axes.updates = tuple(step * (i + 1) for i in range(parts))
  for arm in cfg.arms.values():
    keep = {"keep_every": step} if arm.train.get("keep_every") else {}
    arm.train.update({"steps": step * parts, "checkpoint_every": step} | keep)


def _in_order(cfg: ml_collections.ConfigDict) -> dict:
  """The axes; a ConfigDict sorts its names, and guidance runs fastest."""
  return dict(sorted(cfg.axes.items(), key=lambda item: item[0] in _FASTEST))


_FASTEST = ("guidance_weight", "updates")


def _run(plan: _Plan, out: epath.Path, args: argparse.Namespace) -> None:
  cfg = plan.config
  asked = emoji_sweep.asked(cfg.prompts, cfg.seed)
  description = api.describe(cfg.weights or None)
  measures: dict[tuple, sweeps.Measure] = {}

  def measure(point: sweeps.Point) -> sweeps.Scores:
    which = (point.get("arm"), point.get("updates"))
    if which not in measures:
      measures.clear()  # one network at a time in memory
      measures[which] = _measure(plan, which, description, asked, out, args)
    settings = {k: v for k, v in point.items() if k not in ("arm", "updates")}
    return measures[which](settings)

  def progress(done: int, total: int) -> None:
    print(f"  {plan.name}: {done} of {total} points", flush=True)

  identity = _identity(cfg, description, asked)
  rows = sweeps.run(
    plan.points, measure, out, identity=identity, progress=progress
  )
  ablate_report.write(cfg, plan.points, rows, identity, out)


def _identity(
  cfg: ml_collections.ConfigDict,
  description: folder.Description,
  asked: emoji_sweep.Asked,
) -> dict:
  arms = {
    name: record.config_hash(build.plain(arm)) for name, arm in cfg.arms.items()
  }
  return {
    "metric": emoji_measure.NAME,
    "stage": cfg.stage,
    "weights": [entry.digest for entry in description.stages],
    "settings": [entry.sampler for entry in description.stages],
    "arms": arms,
    "fixed": build.plain(cfg.fixed),
    "x_lr": cfg.x_lr,
    "data": asked.objects.fingerprint,
    "prompts": cfg.prompts,
    "seed": cfg.seed,
  }


def _measure(
  plan: _Plan,
  which: tuple[str | None, int | None],
  description: folder.Description,
  asked: emoji_sweep.Asked,
  out: epath.Path,
  args: argparse.Namespace,
) -> sweeps.Measure:
  """What measures an arm, trained first if it is to be."""
  cfg = plan.config
  arm, updates = which
  fixed = build.plain(cfg.fixed)
  if arm is None:
    return emoji_sweep.measure(
      emoji_sweep.load(description, asked),
      emoji_sweep.stage_index(description, cfg.stage),
      asked,
      batch_size=args.batch_size,
      fixed=fixed,
    )
  path = _trained(cfg.arms[arm], out / arm, updates)
  return emoji_sweep.measure(
    emoji_sweep.load_alone(path, asked),
    0,
    asked,
    batch_size=args.batch_size,
    fixed=fixed,
    x_lr=_small_images(cfg, description, asked, args),
  )


def _trained(
  arm: ml_collections.ConfigDict, workdir: epath.Path, updates: int | None
) -> epath.Path:
  """The stage file of an arm, trained and exported if it is not there."""
  path = workdir / f"{arm.stage.name}-{updates or arm.train.steps}.safetensors"
  if path.exists():
    return path
  build_training.train(arm, str(workdir))
  source = (
    workdir if updates is None else workdir / checkpoints.FOLDER / str(updates)
  )
  line = [f"--checkpoint={source}", f"--out={path}", "--dtype=float32"]
  with contextlib.redirect_stdout(io.StringIO()):
    export.run(line)
  return path


def _small_images(
  cfg: ml_collections.ConfigDict,
  description: folder.Description,
  asked: emoji_sweep.Asked,
  args: argparse.Namespace,
) -> Float[np.ndarray, "n h w 3"] | None:
  """What arms that enlarge are given, at the size of the cascade's base."""
  if not cfg.x_lr:
    return None
  if cfg.x_lr == "drawn":
    return emoji_sweep.drawn(
      emoji_sweep.load(description, asked), batch_size=args.batch_size
    )
  return emoji_measure.real_images(asked.objects, asked.pairs, 32)
