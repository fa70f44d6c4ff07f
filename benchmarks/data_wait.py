"""Does a training step of the demo wait for its data?

  python benchmarks/data_wait.py --steps=200               # base, minutes
  python benchmarks/data_wait.py --stage=sr --steps=100
  python benchmarks/data_wait.py --set=data/photos         # a set of images

Runs `imagen train` of configs/demo.py on this machine, in a folder that is
thrown away, without previews, and prints one JSON object from the seconds of
its metrics.jsonl:

  data_wait_share   of the steps' time: an upper bound, as the device may still
                    be at the step before
  images_per_s      in that time
  first_wait_s      of the first step, which opens the data; not in the share

Captions that are encoded in line are in the steps' time, not in the wait.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from absl import app, flags

from imagen_jax.core import files
from imagen_jax.train import writers

_STAGE = flags.DEFINE_enum("stage", "base", ["base", "sr"], "which is trained")
_STEPS = flags.DEFINE_integer("steps", 200, "to train", lower_bound=2)
_SET = flags.DEFINE_string("set", "", "folder of `imagen data build`; or emoji")

_ROOT = pathlib.Path(__file__).parents[1]


def _command(workdir: pathlib.Path) -> list[str]:
  fields = {
    "train.steps": _STEPS.value,
    "train.log_every": 25,
    "train.checkpoint_every": _STEPS.value,
    "preview.every": 0,
  }
  if _SET.value:
    path = pathlib.Path(_SET.value).absolute()
    fields |= {"data.name": "images", "data.paths": path}
  return [
    *(sys.executable, "-m", "imagen_jax", "train"),
    f"--config={_ROOT / 'configs' / 'demo.py'}:{_STAGE.value}",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


def summary(rows: Sequence[dict]) -> dict[str, float]:
  """What the rows of a run say of its data; the first is of one step."""
  first, *rest = [row for row in rows if "data_wait_s" in row]
  waited = sum(row["data_wait_s"] for row in rest)
  seconds = waited + sum(row["steps_s"] for row in rest)
  images = sum(
    row["images_per_s"] * (row["steps_s"] + row["data_wait_s"]) for row in rest
  )
  return {
    "steps": rest[-1]["step"] - first["step"],
    "data_wait_share": round(waited / seconds, 5),
    "images_per_s": round(images / seconds, 2),
    "first_wait_s": round(first["data_wait_s"], 2),
  }


def main(argv: Sequence[str]) -> None:
  del argv
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run(_command(pathlib.Path(folder)), cwd=_ROOT, check=True)
    rows = list(files.read_jsonl(pathlib.Path(folder) / writers.METRICS))
  found = {"stage": _STAGE.value, "set": _SET.value or "emoji"} | summary(rows)
  print(json.dumps(found | {"cores": os.cpu_count()}))


if __name__ == "__main__":
  app.run(main)
