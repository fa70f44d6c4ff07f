"""The training loop, read top to bottom.

Every step is a function of (state, batch of step n, root key), and the batch of
step n is a function of (data, seed, n); so a run that stops and starts again
goes on as if it had not stopped. The numbers of a step are read while the next
one runs. What is evaluated at a step is logged with it, and then it is saved.

Where training diverges it goes on as a new start would, from an earlier
checkpoint and with later batches; see `rollback`.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import tqdm
from etils import epath

from imagen_jax.core import errors, faults
from imagen_jax.core.arrays import Cond, Key
from imagen_jax.train import checkpoints as checkpoints_lib
from imagen_jax.train import clock as clock_lib
from imagen_jax.train import events as events_lib
from imagen_jax.train import (
  preemption,
  processes,
  rollback,
  step_folders,
  watchdog,
  window,
)
from imagen_jax.train import profiler as profiler_lib
from imagen_jax.train import saver as saver_lib
from imagen_jax.train import step as step_lib
from imagen_jax.train import writers as writers_lib
from imagen_jax.train.evaluator import Evaluator
from imagen_jax.train.state import TrainState

Batch: TypeAlias = window.Batch
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
  """When to do what, in steps; and how much is too much."""

  steps: int
  batch_size: int  # of all processes together
  log_every: int = 50
  checkpoint_every: int = 1000
  keep: int = 3  # the newest checkpoints
  keep_every: int = 0  # and for good each of so many steps; 0 is none
  keep_best: int = 0  # and so many by the number `best_by` of a row
  best_by: str = "loss"
  higher_is_better: bool = False
  max_skipped: int = 1000  # spikes in all
  max_skipped_in_a_row: int = 10
  max_rollbacks: int = 3  # after so many in a row; 0 ends the run there
  rollback_steps: int = 100  # at least so far back,
  rollback_skip: int = 200  # and without so many batches, or those in between
  watchdog_minutes: float = 0.0  # for a step; 0 is no watchdog
  allow_dtype_cast: bool = False  # of a checkpoint's leaves


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
  make_writers: Callable[[epath.Path, int], writers_lib.Writers] = (
    writers_lib.make
  ),
  profiler: profiler_lib.Profiler | None = None,
  flops_per_image: float = 0.0,
) -> TrainState:
  """Trains from the newest checkpoint of `workdir`, or from `make_state`.

  `train_step` is jitted, and may take over the memory of its state. `prepare`
  turns a host batch (with captions) into what the step reads.
  `make_writers(workdir, step)` says where rows go from that step on; with
  `flops_per_image` they have TFLOP/s. Raises NonFinite, at what is not finite
  or if no rollback is left, with the last good state committed; StopRequested
  after SIGTERM, with this one.
  """
  events = events_lib.Events(workdir)
  turns = itertools.count()  # a rollback takes steps back, never these
  step, taken = 0, ()

  def attempt(
    stop: preemption.StopSignal, dog: watchdog.Watchdog
  ) -> TrainState:
    """From the newest checkpoint to the end, or to where it diverges."""
    nonlocal step, taken
    with contextlib.ExitStack() as closing:
      dog.watch("restoring", slow=True)
      if processes.is_first():
        rollback.finish(workdir)
      # Here all processes meet.
      saver = closing.enter_context(_saver(workdir, options, events))
      closing.callback(dog.watch, "ending", slow=True)
      taken = rollback.read(workdir)
      state = saver.restore(make_state, abstract_state)
      step = first = int(state.step)
      writers = make_writers(workdir, step)
      closing.callback(writers.close)
      numbers = window.Window(
        workdir,
        max_skipped=options.max_skipped,
        max_skipped_in_a_row=options.max_skipped_in_a_row,
      )
      clock = clock_lib.Clock(
        options.batch_size, flops_per_image=flops_per_image
      )
      if profiler is not None:
        closing.callback(profiler.close)
      bar = closing.enter_context(_bar(step, options.steps))
      batches = rollback.batches(source.batches, taken, step)

      while step < options.steps and not stop.reached(next(turns)):
        compiles = step == first
        dog.watch(f"step {step + 1}", slow=compiles)
        if profiler is not None:
          profiler.before(step + 1)
        with clock.waiting("data_wait"):
          faults.point("loader")
          batch = next(batches)
        with _compiling(clock, events, step) if compiles else _NOTHING:
          state, metrics = train_step(state, prepare(batch), key)
        step += 1
        clock.step()
        numbers.add(step, metrics, batch)
        if profiler is not None:
          profiler.after(step, state)
        bar.update()
        faults.point("after_step")

        last, row = step == options.steps, {}
        if last or compiles or step % options.log_every == 0:
          row = numbers.close()
          row |= clock.close() | clock_lib.memory()
          bar.set_postfix_str(f"loss {row['loss']:.4f}")
        for evaluator in evaluators:
          if last or step % evaluator.every == 0:
            numbers.read()
            dog.watch(f"{type(evaluator).__name__} at step {step}", slow=True)
            with clock.waiting("evaluate"):
              faults.point("eval")
              row |= evaluator(state, step, workdir)
        writers.write(step, row)
        writers.flush()
        saver.note_committed()
        if last or step % options.checkpoint_every == 0:
          numbers.read()
          dog.watch(f"saving step {step}", slow=True)
          with clock.waiting("save"):
            saver.save(step, state, row.get(options.best_by))

      numbers.read()
      dog.watch(f"saving step {step}", slow=True)
      saver.finish(step, state)
      if step < options.steps:
        events("preempt", step)
        raise errors.StopRequested(
          f"stopped on request at step {step} of {options.steps}, checkpoint"
          " committed; run the same command to go on."
        )
    return state

  with (
    _exit_told(events, lambda: step),
    preemption.StopSignal() as stop,
    watchdog.Watchdog(
      workdir,
      minutes=options.watchdog_minutes,
      report=lambda why: events("watchdog", step, why, code=watchdog.EXIT_CODE),
    ) as dog,
  ):
    while True:
      try:
        return attempt(stop, dog)
      except window.Diverged as diverged:
        _go_back(workdir, options, taken, diverged, events)


def _go_back(
  workdir: epath.Path,
  options: Options,
  taken: rollback.Rollbacks,
  diverged: window.Diverged,
  events: events_lib.Events,
) -> None:
  """Notes from where the next attempt goes on; raises if there is none."""
  saved = step_folders.steps_in(workdir / step_folders.FOLDER)
  if not saved or len(taken) >= options.max_rollbacks:
    raise errors.NonFinite(
      f"{diverged} {rollback.told(taken, options.max_rollbacks)}"
      f"{'' if saved else ' There is no checkpoint to go back to.'}"
    ) from diverged
  new = rollback.plan(
    taken,
    saved,
    diverged.step,
    steps=options.rollback_steps,
    skip=options.rollback_skip,
  )
  count = rollback.position([new], new.to) - rollback.position(taken, new.to)
  reason = f"back to step {new.to}, skipping {count} batches: {diverged}"
  events("rollback", new.at, reason)
  if processes.is_first():
    rollback.note(workdir, taken, new)


def _saver(
  workdir: epath.Path, options: Options, events: events_lib.Events
) -> saver_lib.Saver:
  checkpoints = checkpoints_lib.Checkpoints(
    workdir,
    keep=options.keep,
    keep_every=options.keep_every,
    keep_best=options.keep_best,
    higher_is_better=options.higher_is_better,
  )
  return saver_lib.Saver(
    checkpoints, events, allow_dtype_cast=options.allow_dtype_cast
  )


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def _compiling(
  clock: clock_lib.Clock, events: events_lib.Events, step: int
) -> Iterator[None]:
  """Counts and tells the time of the first step of a start."""
  start = time.monotonic()
  with clock.waiting("compile"):
    yield
  events("compile", step, seconds=time.monotonic() - start)


@contextlib.contextmanager
def _exit_told(
  events: events_lib.Events, step: Callable[[], int]
) -> Iterator[None]:
  """The last event is the exit, with the code that the command will have."""
  try:
    yield
  except BaseException as error:
    interrupted = isinstance(error, KeyboardInterrupt)
    code = getattr(error, "exit_code", 130 if interrupted else 1)
    events("exit", step(), f"{type(error).__name__}: {error}", code=code)
    raise
  events("exit", step(), "done", code=0)


def _bar(step: int, steps: int) -> tqdm.tqdm:
  return tqdm.tqdm(
    total=steps,
    initial=step,
    unit="step",
    mininterval=1.0,
    disable=jax.process_index() > 0,
  )
