"""Plans of the paper's stages and encoder, and the tables of what they say.

  python benchmarks/scaling.py                    all that is not there yet
  python benchmarks/scaling.py --stage=sr_256 --slice=v5e
  python benchmarks/scaling.py --render           the tables, from the files
  python benchmarks/scaling.py --stage=sr_256 --slice=v6e --search

Each plan is one `imagen plan`, whose answer is kept in docs/plans. A training
step takes 5 to 20 minutes of two cores and up to 22 GB of memory to compile (a
swap file will do), a step of sampling a third of that. What the compiler said
is cached, so that a run which was stopped goes on. The encoder takes half a
minute. Needs libtpu, and no TPU: pip install "imagen_jax[plan]". GPUs are
estimated from shapes, in seconds.

Tables are those of docs/scaling.md, and those in the docstrings of the configs.
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
SEARCHES = PLANS / "searches"
PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- plans: begin -->\n", "<!-- plans: end -->"
SIZES = {"base_64": "2b", "sr_256": "600m", "sr_1024": "400m"}
ENCODER = "t5_v1_1_xxl"
STAGES = (*SIZES, ENCODER)
SLICES = {
  "v4": "v4:8x8x4",
  "v5e": "v5e:16x16",
  "v5p": "v5p:4x4x4",
  "v6e": "v6e:16x16",
}
GPUS = {"h100": "gpu:8xh100", "h200": "gpu:8xh200"}
# One image at a time, all stages guided: the least that a cascade needs.
ONE = {"one": "v5e:1x1"}
ALONE = (
  *("--config.mesh.data=1", "--config.mesh.fsdp=1"),
  *("--config.sampler.guidance_weight=5", "--sampler=only"),
)
HEAD = """\
| stage | slice | mesh | remat | a chip holds | of | MFU at most | if nothing \
overlaps | images/s | compute, memory, network, ms | days | compiled in |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
SEARCH = """\
| mesh | remat | micro-batches | a chip holds | compute, memory, network, ms | \
MFU at most | if nothing overlaps |
|---|---|---|---|---|---|---|
"""


def main() -> None:
  args = _parser().parse_args()
  if not args.render:
    for stage, chip in pairs():
      if stage not in (args.stage or STAGES):
        continue
      if chip not in (args.slice or (*SLICES, *GPUS, *ONE)):
        continue
      if args.search and chip not in SLICES:
        continue
      file = (SEARCHES if args.search else PLANS) / f"{stage}_{chip}.json"
      if file.exists() and not args.fresh:
        print(f"{file.name} is there")
        continue
      start = time.monotonic()
      print(shown(stage, chip, search=args.search), flush=True)
      file.write_text(json.dumps(plan(stage, chip, args), indent=1) + "\n")
      print(f"  {time.monotonic() - start:.0f} s", flush=True)
  before, _, rest = PAGE.read_text().partition(BEGIN)
  _, _, after = rest.partition(END)
  PAGE.write_text(before + BEGIN + render() + END + after)
  for stage in SIZES:
    file = ROOT / "configs" / f"{stage}.py"
    before, rest = file.read_text().split(NUMBERS, 1)
    _, after = rest.split('"""', 1)
    file.write_text(f'{before}{numbers(stage)}"""{after}')


def pairs() -> list[tuple[str, str]]:
  """(stage, chip) of all that is planned; on GPUs, training alone."""
  on_tpus = itertools.product(STAGES, SLICES)
  return [*on_tpus, *itertools.product(SIZES, [*GPUS, *ONE])]


def arguments(stage: str, chip: str, *, search: bool = False) -> list[str]:
  """Of `imagen`."""
  of = "base_64" if stage == ENCODER else stage
  modes = "" if chip in ONE else f",{chip}"
  config = f"configs/{of}.py:{SIZES[of]}{modes}"
  what = f"--encoder={ENCODER}" if stage == ENCODER else "--sampler"
  what = "--search" if search else what
  where = (SLICES | GPUS | ONE)[chip]
  parts = ["plan", f"--config={config}", f"--topology={where}"]
  if chip in ONE:
    return [*parts, *ALONE]
  return parts if chip in GPUS else [*parts, what]


def shown(stage: str, chip: str, *, search: bool = False) -> str:
  return " ".join(["imagen", *arguments(stage, chip, search=search)])


def plan(stage: str, chip: str, args: argparse.Namespace) -> dict:
  """The answer of one `imagen plan`; its progress is on stderr."""
  asked = arguments(stage, chip, search=args.search)
  command = [sys.executable, "-m", "imagen_jax", *asked]
  command += ["--json", *([f"--cache={args.cache}"] if args.cache else [])]
  done = subprocess.run(
    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
  )
  told = shown(stage, chip, search=args.search)
  return {"command": told, "programs": json.loads(done.stdout)}


def render() -> str:
  """Tables of training, sampling and the encoder, and the commands."""
  plans = {
    (stage, chip): json.loads(file.read_text())
    for stage, chip in pairs()
    if (file := PLANS / f"{stage}_{chip}.json").exists()
  }
  text = ""
  for title, (program, compiled, head, row_of) in TABLES.items():
    text += f"\n### {title}\n\n{head}"
    for (stage, _), answer in plans.items():
      for row in answer["programs"]:
        facts = estimate.from_json(row["facts"])
        if facts.program == program and compiled == bool(facts.compiled):
          text += row_of(stage, facts)
  alone = [answer for (_, chip), answer in plans.items() if chip in ONE]
  text += ALL_STAGES.format(
    *map(
      files.size_text,
      one_image(
        [estimate.from_json(answer["programs"][0]["facts"]) for answer in alone]
      ),
    )
  )
  text += "\nThe command of each row:\n\n```bash\n"
  text += "".join(answer["command"] + "\n" for answer in plans.values())
  return f"{text}```\n\n### Searches\n{searches()}\n"


ALL_STAGES = """\

One image of 1024 pixels, all three stages on one chip and guided, in bfloat16:
{} of weights and {} beside them in the stage that takes most, with the code of
all, are **{}**.
"""


def one_image(stages: list[estimate.Facts]) -> tuple[int, int, int]:
  """Bytes of weights, of the rest at its most, and of both."""
  found = [estimate.estimate(facts).bytes for facts in stages]
  weights = sum(kinds["params"] for kinds in found)
  code = sum(kinds["code"] for kinds in found)
  rest = code + max(
    sum(kinds.values()) - kinds["params"] - kinds["code"] for kinds in found
  )
  return weights, rest, weights + rest


GPU = """\
| stage | GPUs | mesh | remat | a chip's state and batch | of | MFU at most | \
if nothing overlaps | images/s | compute, memory, network, ms | days | \
micro-batches |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


SAMPLING = """\
| stage | slice | images at once | a chip holds | of | seconds a step, at \
least | steps | seconds for all | MFU at most |
|---|---|---|---|---|---|---|---|---|
"""


ENCODING = """\
| encoder | slice | mesh | captions at once | a chip holds | of | seconds, at \
least | captions/s | bound | MFU at most |
|---|---|---|---|---|---|---|---|---|---|
"""


def _mesh(facts: estimate.Facts) -> str:
  return ", ".join(f"{axis} {n}" for axis, n in facts.mesh.items() if n > 1)


def _three(found: estimate.Estimate) -> str:
  """Milliseconds of each, the bound in bold."""
  told = []
  for name, seconds in found.seconds.items():
    text = f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
    told.append(f"**{text}**" if name == found.bound else text)
  return ", ".join(told)


def searches() -> str:
  """What `imagen plan --search --json` found, for each file in SEARCHES."""
  text = ""
  for file in sorted(SEARCHES.glob("*.json")):
    answer = json.loads(file.read_text())
    text += f"\n`{answer['command']}`\n\n{SEARCH}"
    for row in answer["programs"]:
      facts = estimate.from_json(row["facts"])
      found = estimate.estimate(facts)
      cells = [
        *(_mesh(facts), facts.remat, str(facts.micro_batches)),
        files.size_text(found.total_bytes),
        _three(found) if found.fits else "does not fit",
        f"{found.mfu:.1%}",
        f"{found.serial_mfu:.1%}",
      ]
      text += f"| {' | '.join(cells)} |\n"
  return text


def _training(stage: str, facts: estimate.Facts) -> str:
  found, parts = estimate.estimate(facts), str(facts.micro_batches)
  cells = [
    *(stage, facts.topology, _mesh(facts), facts.remat),
    files.size_text(found.total_bytes),
    f"{found.total_bytes / found.hbm_bytes:.0%}",
    f"{found.mfu:.1%}",
    f"{found.serial_mfu:.1%}",
    f"{found.images_per_second:,.0f}",
    _three(found),
    f"{found.days:.1f}",
    f"{facts.compiled.seconds:.0f} s" if facts.compiled else parts,
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


def _encoding(name: str, facts: estimate.Facts) -> str:
  found = estimate.estimate(facts)
  cells = [
    *(name, facts.topology, _mesh(facts), str(facts.batch_size)),
    files.size_text(found.total_bytes),
    f"{found.total_bytes / found.hbm_bytes:.0%}",
    f"{found.step_seconds:.3g}",
    f"{found.images_per_second:,.0f}",
    found.bound,
    f"{found.mfu:.1%}",
  ]
  return f"| {' | '.join(cells)} |\n"


# By title: the program, whether it was compiled, the head, and a row.
TABLES = {
  "Training": ("train", True, HEAD, _training),
  "Training on eight GPUs, from shapes": ("train", False, GPU, _training),
  "Sampling": ("sample", True, SAMPLING, _sampling),
  "The text encoder": ("encode", True, ENCODING, _encoding),
}
NUMBERS = "  hardware     a chip holds       MFU    images/s  days\n"


def numbers(stage: str) -> str:
  """The table of a config's docstring: its training step everywhere.

  MFU is that where nothing overlaps, and at most.
  """
  text = NUMBERS
  for chip in (*SLICES, *GPUS):
    answer = json.loads((PLANS / f"{stage}_{chip}.json").read_text())
    facts = estimate.from_json(answer["programs"][0]["facts"])
    found = estimate.estimate(facts)
    held = files.size_text(found.total_bytes) if facts.compiled else "?"
    mfu = f"{100 * found.serial_mfu:.0f} - {100 * found.mfu:.0f} %"
    speed = f"{found.images_per_second:,.0f}"
    text += f"  {facts.topology:<11}{held:>14}{mfu:>14}{speed:>10}"
    text += f"{found.days:>6.1f}\n"
  return text


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--stage", action="append", choices=STAGES, help="one of them (repeatable)"
  )
  parser.add_argument(
    "--slice",
    action="append",
    choices=(*SLICES, *GPUS, *ONE),
    help="one of them (repeatable)",
  )
  parser.add_argument("--render", action="store_true", help="compile nothing")
  parser.add_argument(
    "--search", action="store_true", help="other meshes, ranked; hours"
  )
  parser.add_argument("--fresh", action="store_true", help="ask again")
  parser.add_argument("--cache", help="as that of `imagen plan`")
  return parser


if __name__ == "__main__":
  main()
