"""SIGTERM ends a run between two steps, at the same one in all processes.

In one process a handler notes the signal. With jax.distributed, JAX notes it
and tells the others, and all agree on a step that none has passed. A second
signal, while the checkpoint is being written, changes nothing.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Notes SIGTERM while it is entered."""

  def __init__(self):
    self._requested = False
    self._previous = None
    # JAX has set its own, which ours would replace.
    ours = not jax.distributed.is_initialized()
    if ours and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._note)

  def _note(self, *_: object) -> None:
    self._requested = True

  def reached(self, step: int) -> bool:
    """Whether to stop before this step; to be asked once for each."""
    if jax.distributed.is_initialized() and not self._requested:
      self._requested = multihost_utils.reached_preemption_sync_point(step)
    return self._requested

  def __enter__(self) -> "StopSignal":
    return self

  def __exit__(self, *_: object) -> None:
    """SIGTERM does again what it did before."""
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
