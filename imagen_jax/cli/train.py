"""`imagen train`: trains one stage, or goes on from its newest checkpoint."""

import argparse
import math
from collections.abc import Sequence

from imagen_jax import build, build_training
from imagen_jax.cli import arguments, config
from imagen_jax.train import preflight, processes

_SUMMARY = """\
Trains the stage that a config describes, in a folder of its own. Run the same
line again to go on from the newest checkpoint that is whole, to the bit.

The folder gets run.json (config, versions, hashes), metrics.jsonl,
events.jsonl, checkpoints/, tb/ (TensorBoard) and samples/ (PNG grids of
held-out prompts); bad_batch.json or stacks.txt where something went wrong.

exit codes:
  0   done
  2   arguments, config or paths are wrong, or the checkpoint is of another run
  3   a loss, gradient or parameter is not finite, or training diverged; nothing
      of it is saved, and bad_batch.json names the examples
  4   training data is damaged
  5   a checkpoint is damaged, or could not be saved
  6   nothing moved for --watchdog_minutes; stacks.txt says where
  42  stopped by SIGTERM, checkpoint committed: start me again
  1   a bug; 134, 137, 143 are killed processes: start me again"""

_EXAMPLES = (
  "imagen train --config=configs/demo.py:base --workdir=runs/base",
  "imagen train --config=configs/demo.py:sr --workdir=runs/sr",
  "imagen train --config=configs/demo.py:base,runlocal --workdir=runs/try",
  "imagen train --config=configs/demo.py:base --workdir=runs/small \\",
  "  --config.train.batch_size=8 --config.train.steps=500",
  "two processes, here the first of them (the workdir is seen by both):",
  "imagen train --config=configs/demo.py:base --workdir=runs/two \\",
  "  --coordinator=10.0.0.1:8476 --process_id=0 --num_processes=2",
)


def run(argv: Sequence[str]) -> None:
  """Parses the flags and trains."""
  args, cfg = config.parse(argv, _parser())
  preflight.check(build.plain(cfg), args.workdir)
  processes.join(args.coordinator, args.process_id, args.num_processes)
  build_training.train(
    cfg,
    args.workdir,
    allow_change=args.allow_change,
    allow_dtype_cast=args.allow_dtype_cast,
    watchdog_minutes=args.watchdog_minutes,
  )
  print(f"trained; checkpoints, metrics and samples are in {args.workdir}")


def _minutes(text: str) -> float:
  if not 0 <= float(text) < math.inf:
    raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
  return float(text)


def _parser() -> argparse.ArgumentParser:
  parser = config.add_flag(
    arguments.make("train", _SUMMARY, examples=_EXAMPLES)
  )
  parser.add_argument(
    "--workdir",
    required=True,
    metavar="FOLDER",
    help="where the run is kept; made if it is not there",
  )
  parser.add_argument(
    "--allow_change",
    action="append",
    default=[],
    metavar="FIELD",
    help="go on although this field of the config, or hash, is another than the"
    " checkpoint's, for example optimizer.learning_rate (may be repeated)",
  )
  parser.add_argument(
    "--allow_dtype_cast",
    action="store_true",
    help="go on although floating leaves of the checkpoint have another dtype;"
    " each is logged",
  )
  parser.add_argument(
    "--watchdog_minutes",
    type=_minutes,
    metavar="N",
    help="end with code 6 when a step takes longer; compiling, saving and"
    " evaluating may take six times as long; 0 never ends"
    " (default: config.train.watchdog_minutes)",
  )
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help='of process 0, for several processes; or "auto", where JAX knows them'
    " (Cloud TPU, Slurm, Kubernetes)",
  )
  parser.add_argument(
    "--process_id", type=int, metavar="I", help="of this process, from 0"
  )
  parser.add_argument(
    "--num_processes", type=int, metavar="P", help="how many there are"
  )
  return parser
