"""`imagen evaluate sweep`: a grid of sampler settings, measured and plotted."""

import argparse
from collections.abc import Sequence

import tqdm

from imagen_jax import api
from imagen_jax.cascade import folder
from imagen_jax.cli import arguments, emoji_sweep, stage_settings
from imagen_jax.core import errors, files
from imagen_jax.evals import (
  emoji_measure,
  findings,
  plots,
  stage_draws,
  sweep_page,
  sweeps,
)

_SUMMARY = """\
Draws held-out prompts of the emoji set at every combination of the settings
given, and measures the images: colour of the background, standing of the
prompted object, feature distance to real images, with 95 % bootstrap intervals.

Settings are those of one stage; the stages before it keep theirs, and are drawn
once. OUT gets results.jsonl (one object a point), sweep.json (what was
measured), sweep.png (distance against object standing) and report.html. Points
that are done are not done again: the same line goes on after a stop.

On several machines give each --shard=I/N and one OUT that all see; or copy
their OUT/parts together, and run the line again without --shard."""

_EXAMPLES = (
  "imagen evaluate sweep --guidance_weight=1,2,3,5,8 \\",
  "  --threshold=none,static,dynamic --out=sweep",
  "imagen evaluate sweep --steps=4,8,16,32 --sampler=ddim,dpm_solver_pp \\",
  "  --prompts=256 --out=steps",
  "imagen evaluate sweep --weights=runs/demo --stage=sr \\",
  "  --aug_level=0,0.1,0.3 --out=aug",
  "imagen evaluate sweep --guidance_weight=1,3 --shard=0/2 --out=shared/sweep",
)

_AXES = ("threshold", "sampler", "aug_level", "steps", "guidance_weight")


def main(argv: Sequence[str]) -> None:
  """Checks everything, then measures, merges and plots."""
  args = arguments.parse(argv, _parser())
  description = api.describe(args.weights)
  stage = emoji_sweep.stage_index(description, args.stage)
  axes = _axes(args)
  if "aug_level" in axes and stage == 0:
    raise errors.BadInput(
      "--aug_level is of stages that enlarge; choose one with --stage, as"
      f" --stage={description.names[-1]}."
    )
  points, shard = sweeps.grid(axes), sweeps.parse_shard(args.shard)
  settings = api.check(description)
  for point in points:
    stage_draws.changed(settings[stage], point)
  asked = emoji_sweep.asked(args.prompts, args.seed)
  out = files.check_writable(args.out)
  identity = _identity(args, description, stage, asked)
  measure = emoji_sweep.measure(
    emoji_sweep.load(description, asked),
    stage,
    asked,
    batch_size=args.batch_size,
  )
  with tqdm.tqdm(total=len(points), unit="point", mininterval=0.5) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    rows = sweeps.run(
      points,
      measure,
      out,
      identity=identity,
      shard=shard,
      progress=progress,
    )
  _report(rows, len(points), axes, identity, out)


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate sweep", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--out", required=True, metavar="FOLDER", help="made if it is not there")
  add("--weights", metavar="FOLDER", help="default: the demo that is shipped")
  add("--stage", metavar="NAME", help="whose settings; default: the first")
  group = parser.add_argument_group(
    "settings", "one value or several, separated by commas; one flag at least"
  )
  for name in _AXES:
    group.add_argument(f"--{name}", metavar="V[,V...]")
  add(
    "--prompts", type=int, default=64, metavar="N",
    help="held-out pairs of the emoji set (default 64)",
  )  # fmt: skip
  add("--seed", type=int, default=0, metavar="N", help="of pairs and images")
  add(
    "--shard", default="0/1", metavar="I/N",
    help="measure points I, I + N, ... alone (default 0/1)",
  )  # fmt: skip
  add(
    "--batch_size", type=int, default=32, metavar="N",
    help="images at a time; memory and speed only (default 32)",
  )  # fmt: skip
  return parser


def _axes(args: argparse.Namespace) -> dict[str, list]:
  """What the flags say, in the order of `_AXES`, the last fastest."""
  axes = {}
  for name in _AXES:
    text = getattr(args, name)
    if text is not None:
      axes[name] = stage_settings.parse_list(name, text)
  if not axes:
    raise errors.BadInput(
      "no setting is swept; give one at least, as --guidance_weight=1,3,5."
    )
  return axes


def _identity(
  args: argparse.Namespace,
  description: folder.Description,
  stage: int,
  asked: emoji_sweep.Asked,
) -> dict:
  return {
    "metric": emoji_measure.NAME,
    "stage": description.names[stage],
    "weights": [entry.digest for entry in description.stages[: stage + 1]],
    "settings": [entry.sampler for entry in description.stages[: stage + 1]],
    "data": asked.objects.fingerprint,
    "prompts": args.prompts,
    "seed": args.seed,
  }


def _report(
  rows: list[sweeps.Row],
  total: int,
  axes: dict[str, list],
  identity: dict,
  out: files.PathLike,
) -> None:
  """A table, and a plot where all points are there."""
  for row in rows:
    print(emoji_sweep.told(row))
  if len(rows) < total:
    print(f"{len(rows)} of {total} points are done; {out}")
    return
  *lines, label = axes
  plots.pareto(
    rows,
    out / "sweep.png",
    x=emoji_sweep.X,
    y=emoji_sweep.Y,
    lines=lines,
    label=label,
    title=f"stage {identity['stage']}",
  )
  sweep_page.write(
    rows,
    out / sweep_page.NAME,
    title=f"Sweep of stage {identity['stage']}",
    plot=out / "sweep.png",
    notes=[
      findings.sentence(rows, name, [emoji_sweep.X, emoji_sweep.Y])
      for name, values in axes.items()
      if len(values) > 1
    ],
    settings=identity,
  )
  print(f"results: {out / sweeps.RESULTS}\nreport: {out / sweep_page.NAME}")
