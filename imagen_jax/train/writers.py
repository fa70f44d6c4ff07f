"""Where the numbers and pictures of a run go.

  metrics.jsonl        {"step", "time", "attempt", ...} a logged step
  metrics_lost.jsonl   rows of steps that a restart took back, to account for
  tb/                  TensorBoard
  Weights & Biases     when asked for

An attempt is a start of the run, counted in events.jsonl.

Steps in `metrics.jsonl` strictly increase, however often the run was killed: a
run that goes on from step n first takes out the rows after n.

The methods are named as those of CLU's writers, which are not used because
`clu.metric_writers` cannot be imported without TensorFlow.
"""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from imagen_jax.core import errors, files, wall_time
from imagen_jax.train import event_file, events

METRICS, LOST = "metrics.jsonl", "metrics_lost.jsonl"
TENSORBOARD = "tb"

Picture: TypeAlias = UInt8[np.ndarray, "h w 3"]


@runtime_checkable
class Writer(Protocol):
  """Takes numbers and pictures of a step; steps do not decrease."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...
  def write_images(self, step: int, images: Mapping[str, Picture]) -> None: ...
  def flush(self) -> None: ...
  def close(self) -> None: ...


class MetricsFile:
  """`metrics.jsonl`: one row a step, written by `flush`, with its time."""

  def __init__(self, workdir: epath.Path):
    self._path = workdir / METRICS
    self._attempt = events.starts(workdir)
    self._row: dict[str, float | None] = {}
    self._step = self._written = -1

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds to the row of `step`; that of an earlier step is written."""
    if step != self._step:
      self.flush()
    assert step > self._written, f"step {step} after step {self._written}"
    self._step = step
    # JSON has no NaN and no infinity.
    self._row |= {
      name: value if math.isfinite(value) else None
      for name, value in scalars.items()
    }

  def write_images(self, step: int, images: Mapping[str, Picture]) -> None:
    """Pictures are not numbers."""

  def flush(self) -> None:
    """Writes the row, after which its step is over."""
    if self._row:
      stamp = {
        "step": self._step,
        "time": round(wall_time.now(), 3),
        "attempt": self._attempt,
      }
      files.append_jsonl(self._path, stamp | self._row)
      self._written = self._step
    self._row = {}

  def close(self) -> None:
    """Writes the row that is left."""
    self.flush()


class Wandb:
  """Weights & Biases; the run of a workdir goes on after a restart."""

  def __init__(self, workdir: epath.Path, *, project: str, config: dict):
    try:
      import wandb
    except ImportError as error:
      raise errors.BadInput(
        f"logging to the W&B project {project!r} needs the package wandb"
        f' ({error}); run: pip install "imagen_jax[wandb]". Or name no project.'
      ) from error
    self._wandb: Any = wandb
    try:
      self._run = wandb.init(
        project=project,
        id=_run_id(workdir),
        name=workdir.name,
        dir=str(workdir),
        config=config,
        resume="allow",
      )
    except Exception as error:  # its own kinds, which change with its version
      raise errors.BadInput(
        f"W&B did not start ({error}); log in with `wandb login`, or set"
        " WANDB_MODE=offline, or name no project."
      ) from error
    # Its own count of steps cannot go back, which a restart does.
    self._run.define_metric("*", step_metric="step")

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """One point of each curve."""
    self._run.log({"step": step, **scalars})

  def write_images(self, step: int, images: Mapping[str, Picture]) -> None:
    """One picture a tag."""
    shown = {tag: self._wandb.Image(x) for tag, x in images.items()}
    self._run.log({"step": step, **shown})

  def flush(self) -> None:
    """It sends what it has by itself."""

  def close(self) -> None:
    """Waits until all is sent."""
    self._run.finish()


class Writers:
  """Several writers as one, for values of both kinds."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = writers

  def write(self, step: int, values: Mapping[str, float | Picture]) -> None:
    """Numbers to the curves, arrays to the pictures."""
    pictures = {n: x for n, x in values.items() if np.ndim(x) == 3}
    scalars = {n: float(x) for n, x in values.items() if n not in pictures}
    for writer in self._writers:
      if scalars:
        writer.write_scalars(step, scalars)
      if pictures:
        writer.write_images(step, pictures)

  def flush(self) -> None:
    """Call it when all of a step is written."""
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    """Nothing can be written afterwards."""
    for writer in self._writers:
      writer.close()


def make(
  workdir: epath.Path,
  step: int,
  *,
  wandb_project: str = "",
  config: dict | None = None,
) -> Writers:
  """The writers of a run that goes on from `step`; process 0 alone writes."""
  if jax.process_index() != 0:
    return Writers([])
  take_back(workdir, step)
  writers: list[Writer] = [
    MetricsFile(workdir),
    event_file.EventFile(workdir / TENSORBOARD, step),
  ]
  if wandb_project:
    config = {} if config is None else config
    writers.append(Wandb(workdir, project=wandb_project, config=config))
  return Writers(writers)


def take_back(workdir: epath.Path, step: int) -> None:
  """Moves the rows after `step` to `metrics_lost.jsonl`.

  A kill in between leaves rows in both files, never in none.
  """
  path = workdir / METRICS
  if not path.exists():
    return
  rows = list(files.read_jsonl(path))
  for row in rows:
    if row["step"] > step:
      files.append_jsonl(workdir / LOST, row)
  kept = [row for row in rows if row["step"] <= step]
  # Written anew in any case: the last line may be torn.
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
  files.atomic_write(path, "".join(lines).encode())


def _run_id(workdir: epath.Path) -> str:
  path = workdir / "wandb_id.txt"
  if not path.exists():
    files.atomic_write(path, uuid.uuid4().hex[:16].encode())
  return path.read_text().strip()
