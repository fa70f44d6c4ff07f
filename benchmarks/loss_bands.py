"""Makes the reference bands of losses that `imagen doctor` compares with.

  imagen train --config=configs/demo.py:base --workdir=runs/0 \\
    --config.train.log_every=25          # and with other seeds; some steps
  imagen train --config=configs/finetune.py:base --workdir=runs/end \\
    --config.start.source=imagen_jax/assets/demo/base.safetensors \\
    --config.optimizer.learning_rate=0.0 --config.train.log_every=25 \\
    --config.train.steps=200             # what trained weights come to
  python benchmarks/loss_bands.py --run=runs/0 --trained=runs/end \\
    --trained_step=5000 --steps=50,100,200,400,800 \\
    --out=imagen_jax/assets/demo/loss_bands_base_32.json

The last band of --steps reaches down to the losses of --trained, as nothing was
measured between.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import app, flags

from imagen_jax.core import files
from imagen_jax.train import loss_bands, writers

_RUNS = flags.DEFINE_multi_string(
  "run", None, "workdir of a healthy run; may be repeated", required=True
)
_TRAINED = flags.DEFINE_string(
  "trained", None, "workdir in which trained weights stood still", required=True
)
_TRAINED_STEP = flags.DEFINE_integer(
  "trained_step", None, "at which they were taken", required=True
)
_STEPS = flags.DEFINE_list("steps", None, "where bands begin", required=True)
_MARGIN = flags.DEFINE_float("margin", 0.25, "beyond what was measured")
_OUT = flags.DEFINE_string("out", None, "the file of bands", required=True)

# What the losses depend on, where a user may well have another.
_FIELDS = (
  "data.name",
  "optimizer.learning_rate",
  "stage.name",
  "stage.prediction",
  "stage.resolution",
  "stage.weighting",
  "start.source",
  "text.encoder",
  "train.batch_size",
  "train.steps",
)


def _rows(workdir: str) -> list[dict]:
  """Those of many steps; the first of a start is of one."""
  rows = files.read_jsonl(pathlib.Path(workdir) / writers.METRICS)
  return [row for row in rows if "loss" in row and not row["compile_s"]]


def _config(workdir: str) -> dict:
  return json.loads((pathlib.Path(workdir) / "run.json").read_text())["config"]


def main(argv: Sequence[str]) -> None:
  del argv
  step = _TRAINED_STEP.value
  runs = {workdir: _rows(workdir) for workdir in _RUNS.value}
  trained = [row | {"step": step} for row in _rows(_TRAINED.value)]
  rows = [row for found in runs.values() for row in found] + trained
  starts = [*map(int, _STEPS.value), step]
  config = _config(_RUNS.value[0])
  sizes = ", ".join(
    f"{found[-1]['step']} steps of seed {_config(workdir)['seed']}"
    for workdir, found in runs.items()
  )
  reference = loss_bands.Reference(
    about=(
      f"configs/demo.py:{config['stage']['name']}, float32 on a CPU, rows of"
      f" {config['train']['log_every']} steps x {config['train']['batch_size']}"
      f" images: {sizes}; and the shipped weights (EMA) of {step} steps,"
      f" in {len(trained)} rows. Nothing was measured between. A band is what"
      f" was measured and {_MARGIN.value:.0%} beyond."
    ),
    of={
      name: config[name.partition(".")[0]][name.partition(".")[2]]
      for name in _FIELDS
    },
    bands=loss_bands.make(rows, starts, margin=_MARGIN.value),
  )
  loss_bands.write(_OUT.value, reference)
  print(f"{_OUT.value}: bands from steps {', '.join(map(str, starts))}")


if __name__ == "__main__":
  app.run(main)
