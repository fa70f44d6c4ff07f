"""A trace of some steps, to be read with TensorBoard's profiler or Perfetto.

  profiler = Profiler(workdir / FOLDER, first=20, count=3, last=steps)
  profiler.before(step)
  state, metrics = run_step(...)
  profiler.after(step, state)

The trace ends when the device has done the steps, not when it was told to. A
window is of this process: a run that resumes past it traces nothing.
"""

import jax
from etils import epath
from jaxtyping import PyTree

from imagen_jax.core import errors

FOLDER = "profile"


class Profiler:
  """Traces steps first, ..., first + count - 1; none if count is 0."""

  def __init__(
    self, folder: epath.PathLike, *, first: int, count: int, last: int
  ):
    check(first=first, count=count, last=last)
    self._folder = epath.Path(folder)
    self._first, self._end = first, first + count
    self._tracing = False

  def before(self, step: int) -> None:
    """Call it before step number `step`, the first of a run being 1."""
    if step == self._first < self._end:
      jax.profiler.start_trace(self._folder)
      self._tracing = True

  def after(self, step: int, state: PyTree) -> None:
    """Call it with the state that `step` made."""
    if self._tracing and step == self._end - 1:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Ends a trace under way, as where a run stops inside the window."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()


def check(*, first: int, count: int, last: int) -> None:
  """Raises BadInput for a window that is not within the steps 1 to last."""
  if count < 0 or (count and first < 1):
    raise errors.BadInput(
      f"profile of {count} steps from step {first}; steps count from 1, and 0"
      " steps is no profile."
    )
  if count and first + count - 1 > last:
    raise errors.BadInput(
      f"profile of steps {first} to {first + count - 1}, but the run has"
      f" {last} steps; begin at {max(last - count + 1, 1)} or before."
    )
