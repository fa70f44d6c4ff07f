"""`imagen doctor`: what is wrong with a run, in words, and what to do."""

import argparse
import pathlib
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence

from etils import epath

from imagen_jax.cli import (
  arguments,
  config,
  data_report,
  doctor_checks,
  doctor_patient,
)
from imagen_jax.health import findings

_SUMMARY = """\
Examines a run, before it starts or while it goes on, and says what is wrong and
what to do: machine, config, data, text; with --workdir also checkpoints, losses
and whether the text is used; and whether the stage learns a few images by heart
from fresh parameters. Nothing in --workdir is changed, but for a sheet of
samples.

One line a check: ok, skipped, warning or problem, and "->" what to do.

exit codes:
  0   no problem; there may be warnings
  2   config, paths or this machine
  3   parameters or losses are not finite, or the stage does not learn
  4   training data
  5   a checkpoint is damaged
and of several problems the highest."""

_EXAMPLES = (
  "before a run, in a minute or two:",
  "imagen doctor --config=configs/demo.py:base",
  "without running the network, in seconds:",
  "imagen doctor --config=configs/demo.py:base --workdir=runs/base --quick",
  "a run that draws only noise, with the fields that it was started with:",
  "imagen doctor --config=configs/demo.py:base --workdir=runs/base \\",
  "  --config.train.batch_size=8",
  "a large stage, on fewer images:",
  "imagen doctor --config=configs/demo.py:sr --overfit_images=2 \\",
  "  --overfit_steps=100",
)

_MARKS = {
  "ok": "ok",
  "skipped": "-",
  "warning": "warning",
  "problem": "PROBLEM",
}
_LEFT = 24  # columns of mark and name
_WIDEST = 110


def run(argv: Sequence[str]) -> None:
  """Prints a line a check; raises the kind of the worst problem."""
  args, cfg = config.parse(argv, _parser())
  options = doctor_patient.Options(
    config_name=pathlib.Path(args.config.partition(":")[0]).stem,
    overfit_images=args.overfit_images,
    overfit_steps=args.overfit_steps,
    quick=args.quick,
    bands=args.bands,
    sheet=args.sheet,
  )
  found = []
  workdir = epath.Path(args.workdir) if args.workdir else None
  patient = doctor_patient.Patient(cfg, workdir, options)
  for finding in doctor_checks.examine(patient):
    print(as_text(finding), flush=True)
    found.append(finding)
  levels = Counter(finding.level for finding in found)
  said = (
    f"{_count(levels['problem'], 'problem')},"
    f" {_count(levels['warning'], 'warning')}, {levels['ok']} ok,"
    f" {levels['skipped']} not examined"
  )
  if kind := findings.worst(found):
    named = [finding.check for finding in found if finding.level == "problem"]
    raise kind(f"{said}. Begin with: {', '.join(named)}.")
  print(said)


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}" + ("" if number == 1 else "s")


def as_text(finding: findings.Finding) -> str:
  """Mark, name and what is said in columns; below it the remedy."""
  width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST) - _LEFT
  lines = []
  for line in finding.said.split("\n"):
    # What is a table already has its own columns.
    lines += textwrap.wrap(line, width) if len(line) > width else [line]
  if finding.remedy:
    lines += textwrap.wrap(
      finding.remedy,
      width,
      initial_indent="-> ",
      subsequent_indent="   ",
      break_on_hyphens=False,
    )
  head = f"{_MARKS.get(finding.level, finding.level):<9}{finding.check:<15}"
  indent = "\n" + " " * _LEFT
  return head + indent.join(lines)


def _parser() -> argparse.ArgumentParser:
  parser = config.add_flag(
    arguments.make("doctor", _SUMMARY, examples=_EXAMPLES)
  )
  add = parser.add_argument
  add("--workdir", metavar="FOLDER", help="of the run, if it has begun")
  for name, default, text in (
    ("images", 8, "images to learn by heart; fewer are quicker"),
    ("steps", 200, "steps at most; it stops when the loss is low enough"),
  ):
    add(
      f"--overfit_{name}", type=data_report.positive, default=default,
      metavar="N", help=f"{text} (default: {default})",
    )  # fmt: skip
  add(
    "--quick", action="store_true",
    help="do not run the network: no overfitting, no samples, no prompt swap;"
    " and verify the newest checkpoint alone",
  )  # fmt: skip
  add(
    "--bands", metavar="FILE",
    help="losses of healthy runs, as train.loss_bands writes them (default:"
    " the file that is shipped for this config and stage, if any)",
  )  # fmt: skip
  add(
    "--sheet", metavar="FILE",
    help="PNG of samples, raw beside EMA (default: samples/doctor.png in"
    " --workdir)",
  )  # fmt: skip
  return parser
