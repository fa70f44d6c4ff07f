"""Checkpoints as the loop makes them: with events, checks and faults."""

import time
from collections.abc import Callable

from absl import logging

from imagen_jax.core import faults
from imagen_jax.train import checkpoints as checkpoints_lib
from imagen_jax.train import events as events_lib
from imagen_jax.train import guards
from imagen_jax.train.state import TrainState


class Saver:
  """Restores once, then saves; tells the events of a run."""

  def __init__(
    self,
    checkpoints: checkpoints_lib.Checkpoints,
    events: events_lib.Events,
    *,
    allow_dtype_cast: bool = False,
  ):
    self._checkpoints = checkpoints
    self._events = events
    self._cast = allow_dtype_cast
    self._started: dict[int, float] = {}
    self._last: int | None = None

  def __enter__(self) -> "Saver":
    return self

  def __exit__(self, *_: object) -> None:
    self._checkpoints.close()

  def restore(
    self, make_state: Callable[[], TrainState], abstract_state: TrainState
  ) -> TrainState:
    """The newest checkpoint that is whole, or a new state."""
    start, latest = time.monotonic(), self._checkpoints.latest_step()
    self._events("start", latest or 0)
    if latest is None:
      return make_state()
    state = self._checkpoints.restore(
      abstract_state,
      allow_dtype_cast=self._cast,
      on_fallback=lambda step, why: self._events("damaged", step, why),
    )
    self._last = int(state.step)
    logging.info("resuming from step %d", self._last)
    seconds = time.monotonic() - start
    self._events("restore", self._last, seconds=seconds)
    return state

  def save(
    self, step: int, state: TrainState, score: float | None = None
  ) -> None:
    """Copies the state to the host; it is written while training goes on."""
    guards.check_finite(state)
    faults.point("before_save")
    self._started[step] = time.monotonic()
    self._checkpoints.save(step, state, score=score)
    self._last = step
    faults.point("after_save")

  def note_committed(self) -> None:
    """Events for saves that are done; one that failed raises here."""
    for step in self._checkpoints.check():
      seconds = time.monotonic() - self._started.pop(step)
      self._events("save", step, seconds=seconds)

  def finish(self, step: int, state: TrainState) -> None:
    """Saves the last step, unless it is, and waits until all is committed."""
    if self._last != step:
      self.save(step, state)
    self._checkpoints.wait()
    self.note_committed()
