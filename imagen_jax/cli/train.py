"""`imagen train`: trains one stage, or goes on from its newest checkpoint."""

from collections.abc import Sequence

from imagen_jax import build
from imagen_jax.cli import arguments, config

_SUMMARY = """\
Trains the stage that a config describes, in a folder of its own. Run the same
line again to go on from the newest checkpoint. SIGTERM stops with a checkpoint
and exit code 42: start me again.

The folder gets run.json (config, versions, hashes), metrics.jsonl,
events.jsonl, checkpoints/ and samples/ (PNG grids of held-out prompts)."""

_EXAMPLES = (
  "imagen train --config=configs/demo.py:base --workdir=runs/base",
  "imagen train --config=configs/demo.py:sr --workdir=runs/sr",
  "imagen train --config=configs/demo.py:base,runlocal --workdir=runs/try",
  "imagen train --config=configs/demo.py:base --workdir=runs/small \\",
  "  --config.train.batch_size=8 --config.train.steps=500",
)


def run(argv: Sequence[str]) -> None:
  """Parses the flags and trains."""
  parser = config.add_flag(
    arguments.make("train", _SUMMARY, examples=_EXAMPLES)
  )
  parser.add_argument(
    "--workdir",
    required=True,
    metavar="FOLDER",
    help="where the run is kept; made if it is not there",
  )
  args, cfg = config.parse(argv, parser)
  build.train(cfg, args.workdir)
  print(f"trained; checkpoints, metrics and samples are in {args.workdir}")
