"""The training loop, read top to bottom.

Every step is a function of (state, batch of step n, root key), and the batch of
step n is a function of (data, seed, n); so a run that stops and starts again
goes on as if it had not stopped. Metrics of a window are read when the window
is over, while the next step runs.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
import tqdm
from absl import logging
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Cond, Key
from imagen_jax.train import checkpoints as checkpoints_lib
from imagen_jax.train import record
from imagen_jax.train import step as step_lib
from imagen_jax.train.evaluator import Evaluator
from imagen_jax.train.state import TrainState

Batch: TypeAlias = dict[str, np.ndarray | list[str] | jax.Array]
Prepare: TypeAlias = Callable[[Batch], Cond]


@runtime_checkable
class Source(Protocol):
  """Batches addressed by step."""

  fingerprint: str  # of all that decides the stream

  def batches(self, start: int) -> Iterator[Batch]:
    """The batches of steps start, start + 1, ..."""
    ...


@dataclasses.dataclass(frozen=True)
class Options:
  """When to do what, in steps."""

  steps: int
  batch_size: int
  log_every: int = 50
  checkpoint_every: int = 1000
  keep: int = 3


def train(
  *,
  make_state: Callable[[], TrainState],
  abstract_state: TrainState,
  train_step: step_lib.TrainStep,
  source: Source,
  prepare: Prepare,
  key: Key,
  workdir: epath.Path,
  options: Options,
  evaluators: Sequence[Evaluator] = (),
) -> TrainState:
  """Trains from the newest checkpoint of `workdir`, or from `make_state`.

  `prepare` turns a host batch (with captions) into what the step reads.
  Raises NonFinite at a loss or gradient that is not finite, StopRequested
  after SIGTERM, each with the last good state committed.
  """
  saver = checkpoints_lib.Checkpoints(workdir, keep=options.keep)
  state = _start(saver, make_state, abstract_state, workdir)
  step = first = int(state.step)
  run_step = jax.jit(train_step, donate_argnums=0)
  stop = _StopSignal()
  window = _Window(workdir, options)
  bar = tqdm.tqdm(
    total=options.steps, initial=step, unit="step", mininterval=1.0
  )
  batches = source.batches(step)
  try:
    while step < options.steps and not stop.requested:
      state, metrics = run_step(state, prepare(next(batches)), key)
      step += 1
      bar.update()
      window.add(metrics)
      last = step == options.steps
      if last or step % options.log_every == 0 or step == first + 1:
        bar.set_postfix_str(window.close(step))
      if last or step % options.checkpoint_every == 0:
        window.check(step)
        _save(saver, step, state, workdir)
      for evaluator in evaluators:
        if last or step % evaluator.every == 0:
          window.log(step, evaluator(state, step, workdir))
    if stop.requested and step < options.steps:
      window.check(step)
      _save(saver, step, state, workdir)
      record.event(workdir, "preempt", step)
      raise errors.StopRequested(
        f"stopped on request at step {step} of {options.steps}, checkpoint"
        " committed; run the same command to go on."
      )
  except errors.NonFinite as error:
    record.event(workdir, "exit", step, str(error))
    raise
  finally:
    bar.close()
    stop.restore()
    saver.close()
  record.event(workdir, "exit", step, "done")
  return state


def _start(
  saver: checkpoints_lib.Checkpoints,
  make_state: Callable[[], TrainState],
  abstract_state: TrainState,
  workdir: epath.Path,
) -> TrainState:
  """The newest checkpoint, or a new state."""
  latest = saver.latest_step()
  if latest is None:
    record.event(workdir, "start", 0)
    return make_state()
  logging.info("resuming from step %d", latest)
  state = saver.restore(abstract_state, latest)
  _drop_metrics_after(workdir, latest)
  record.event(workdir, "restore", latest)
  return state


def _save(
  saver: checkpoints_lib.Checkpoints,
  step: int,
  state: TrainState,
  workdir: epath.Path,
) -> None:
  if saver.latest_step() == step:
    return
  saver.save(step, state, wait=True)
  record.event(workdir, "save", step)


def _drop_metrics_after(workdir: epath.Path, step: int) -> None:
  """Forgets what was logged after the checkpoint: steps stay increasing."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return
  kept = [row for row in files.read_jsonl(path) if row["step"] <= step]
  path.unlink()
  for row in kept:
    files.append_jsonl(path, row)


class _Window:
  """Metrics since the last log line; the only place that waits for numbers."""

  def __init__(self, workdir: epath.Path, options: Options):
    self._path = workdir / "metrics.jsonl"
    self._batch_size = options.batch_size
    self._metrics: list[step_lib.Metrics] = []
    self._started = time.monotonic()

  def add(self, metrics: step_lib.Metrics) -> None:
    self._metrics.append(metrics)

  def check(self, step: int) -> None:
    """Raises NonFinite if a step of the window was not finite."""
    first = step - len(self._metrics) + 1
    for i, metrics in enumerate(jax.device_get(self._metrics)):
      bad = [name for name, x in metrics.items() if not math.isfinite(x)]
      if bad:
        raise errors.NonFinite(
          f"{' and '.join(bad)} not finite at step {first + i}; that update"
          " was not applied. Look at the batch of that step, or lower the"
          " learning rate, and start from the last checkpoint."
        )

  def close(self, step: int) -> str:
    """Logs the window's means; returns them as a short text."""
    self.check(step)
    host = jax.device_get(self._metrics)
    means = {n: float(np.mean([m[n] for m in host])) for n in host[0]}
    seconds = time.monotonic() - self._started
    rate = len(host) * self._batch_size / seconds
    self.log(step, means | {"images_per_s": rate})
    self._metrics, self._started = [], time.monotonic()
    return f"loss {means['loss']:.4f}, {rate:.1f} images/s"

  def log(self, step: int, values: dict[str, float]) -> None:
    if values:
      files.append_jsonl(self._path, {"step": step} | values)


class _StopSignal:
  """Notes SIGTERM, so that the loop ends between two steps."""

  def __init__(self):
    self.requested = False
    self._previous = None
    if threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._note)

  def _note(self, *_: object) -> None:
    self.requested = True

  def restore(self) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
