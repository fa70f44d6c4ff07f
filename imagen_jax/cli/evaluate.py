"""`imagen evaluate VERB ...`: finds the verb and runs its module.

A verb is one line of `VERBS`; its module has `main(argv)`, answers --help, and
is imported only when it is asked for.
"""

import importlib
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.cli import arguments
from imagen_jax.core import errors


class Verb(NamedTuple):
  """Where a verb lives, and what it does."""

  module: str
  summary: str


VERBS = {
  "fid": Verb("evaluate_fid", "FID, KID and more of images against images"),
  "coco": Verb("evaluate_coco", "zero-shot FID-30K on COCO, all of it"),
  "clip": Verb("evaluate_clip", "images against their captions"),
  "sweep": Verb("evaluate_sweep", "plots over a grid of sampler settings"),
  "drawbench": Verb("evaluate_drawbench", "images of a list of prompts"),
  "rate": Verb("evaluate_rate", "people compare two sets of images, blind"),
  "ablate": Verb("evaluate_ablate", "the paper's ablations, with plots"),
}

_EXAMPLES = (
  "imagen evaluate fid --real=photos --fake=samples --out=fid",
  "imagen evaluate clip --images=samples --out=clip",
  "imagen evaluate sweep --guidance_weight=1,3,5 --out=sweep",
  "imagen evaluate rate --a=new --b=old --raters=25 --out=ratings",
  "imagen evaluate ablate --only=thresholding --out=ablations",
  "imagen evaluate sweep --help",
)


def run(argv: Sequence[str]) -> None:
  """Finds the verb and runs it."""
  name = argv[0] if argv else "--help"
  if name in ("-h", "--help"):
    print(_help())
    return
  if name not in VERBS:
    raise errors.BadInput(
      f"unknown verb {name!r}{arguments.did_you_mean(name, VERBS)} Verbs:"
      f" {', '.join(VERBS)}. See `imagen evaluate --help`."
    )
  module = f"imagen_jax.cli.{VERBS[name].module}"
  importlib.import_module(module).main(argv[1:])


def _help() -> str:
  width = max(map(len, VERBS))
  lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
  summary = "\n".join(["Measures what a cascade draws.", "", *lines])
  return arguments.make(
    "evaluate VERB", summary, examples=_EXAMPLES
  ).format_help()
