"""Plans of the paper's three stages on four slices, and the table of them.

  python benchmarks/scaling.py                    all that is not there yet
  python benchmarks/scaling.py --stage=sr_256 --slice=v5e
  python benchmarks/scaling.py --render           docs/scaling.md from the files

Each plan is one `imagen plan`, whose answer is kept in docs/plans. A training
step takes 5 to 20 minutes of two cores and up to 22 GB of memory to compile (a
swap file will do), a step of sampling a third of that. What the compiler said
is cached, so that a run which was stopped goes on. Needs libtpu, and no TPU:
pip install "imagen_jax[plan]".
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import time

from imagen_jax.core import files
from imagen_jax.plan import estimate

ROOT = pathlib.Path(__file__).parents[1]
PLANS = ROOT / "docs" / "plans"
PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- plans: begin -->\n", "<!-- plans: end -->"
SIZES = {"base_64": "2b", "sr_256": "600m", "sr_1024": "400m"}
SLICES = {
  "v4": "v4:8x8x4",
  "v5e": "v5e:16x16",
  "v5p": "v5p:4x4x4",
  "v6e": "v6e:16x16",
}
HEAD = """\
| stage | slice | mesh | remat | a chip holds | of | MFU at most | if nothing \
overlaps | images/s | bound | days | compiled in |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
  args = _parser().parse_args()
  if not args.render:
    for stage, chip in itertools.product(
      args.stage or SIZES, args.slice or SLICES
    ):
      file = PLANS / f"{stage}_{chip}.json"
      if file.exists() and not args.fresh:
        print(f"{file.name} is there")
        continue
      start = time.monotonic()
      print(f"{shown(stage, chip)}", flush=True)
      file.write_text(json.dumps(plan(stage, chip, args), indent=1) + "\n")
      print(f"  {time.monotonic() - start:.0f} s", flush=True)
  before, _, rest = PAGE.read_text().partition(BEGIN)
  _, _, after = rest.partition(END)
  PAGE.write_text(before + BEGIN + render() + END + after)


def arguments(stage: str, chip: str) -> list[str]:
  """Of `imagen`."""
  config = f"configs/{stage}.py:{SIZES[stage]},{chip}"
  return [
    *("plan", f"--config={config}", f"--topology={SLICES[chip]}"),
    "--sampler",
  ]


def shown(stage: str, chip: str) -> str:
  return " ".join(["imagen", *arguments(stage, chip)])


def plan(stage: str, chip: str, args: argparse.Namespace) -> dict:
  """The answer of one `imagen plan`; its progress is on stderr."""
  command = [sys.executable, "-m", "imagen_jax", *arguments(stage, chip)]
  command += ["--json", *([f"--cache={args.cache}"] if args.cache else [])]
  done = subprocess.run(
    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
  )
  return {"command": shown(stage, chip), "programs": json.loads(done.stdout)}


def render() -> str:
  """Two tables, of training and of sampling, and the commands."""
  plans = {
    (stage, chip): json.loads(file.read_text())
    for stage, chip in itertools.product(SIZES, SLICES)
    if (file := PLANS / f"{stage}_{chip}.json").exists()
  }
  text = ""
  for program, title in (("train", "Training"), ("sample", "Sampling")):
    text += f"\n### {title}\n\n{HEAD if program == 'train' else SAMPLING}"
    for (stage, _), answer in plans.items():
      facts = next(
        estimate.from_json(row["facts"])
        for row in answer["programs"]
        if row["facts"]["program"] == program
      )
      text += (_training if program == "train" else _sampling)(stage, facts)
  text += "\nThe command of each row:\n\n```bash\n"
  text += "".join(answer["command"] + "\n" for answer in plans.values())
  return text + "```\n\n"


SAMPLING = """\
| stage | slice | images at once | a chip holds | of | seconds a step, at \
least | steps | seconds for all | MFU at most |
|---|---|---|---|---|---|---|---|---|
"""


def _mesh(facts: estimate.Facts) -> str:
  return ", ".join(f"{axis} {n}" for axis, n in facts.mesh.items() if n > 1)


def _training(stage: str, facts: estimate.Facts) -> str:
  found = estimate.estimate(facts)
  cells = [
    *(stage, facts.topology, _mesh(facts), facts.remat),
    files.size_text(found.total_bytes),
    f"{found.total_bytes / found.hbm_bytes:.0%}",
    f"{found.mfu:.1%}",
    f"{found.serial_mfu:.1%}",
    f"{found.images_per_second:,.0f}",
    found.bound,
    f"{found.days:.1f}",
    f"{facts.compiled.seconds:.0f} s",
  ]
  return f"| {' | '.join(cells)} |\n"


def _sampling(stage: str, facts: estimate.Facts) -> str:
  found = estimate.estimate(facts)
  cells = [
    *(stage, facts.topology, str(facts.batch_size)),
    files.size_text(found.total_bytes),
    f"{found.total_bytes / found.hbm_bytes:.0%}",
    f"{found.step_seconds:.3g}",
    str(facts.steps),
    f"{found.step_seconds * facts.steps:.3g}",
    f"{found.mfu:.1%}",
  ]
  return f"| {' | '.join(cells)} |\n"


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--stage", action="append", choices=SIZES, help="one of them (repeatable)"
  )
  parser.add_argument(
    "--slice", action="append", choices=SLICES, help="one of them (repeatable)"
  )
  parser.add_argument("--render", action="store_true", help="compile nothing")
  parser.add_argument("--fresh", action="store_true", help="ask again")
  parser.add_argument("--cache", help="as that of `imagen plan`")
  return parser


if __name__ == "__main__":
  main()
