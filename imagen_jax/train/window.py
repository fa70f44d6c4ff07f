"""The numbers of steps since the last row, and what they forbid.

The numbers of a step are read when the next one is on its way, so the device
does not wait for the host, and the host is never further ahead than that. A
step that is not finite, or one spike too many in all, ends the run there; one
too many in a row ends the attempt.
"""

from typing import TypeAlias

import jax
import numpy as np
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import step as step_lib

Batch: TypeAlias = dict[str, np.ndarray | list[str] | jax.Array]


class Diverged(errors.NonFinite):
  """Too many spikes in a row, the last of them at `step`."""

  def __init__(self, message: str, step: int):
    super().__init__(message)
    self.step = step


class Window:
  """Collects metrics by step."""

  def __init__(
    self, workdir: epath.Path, *, max_skipped: int, max_skipped_in_a_row: int
  ):
    self._workdir = workdir
    self._caps = {
      "skipped": max_skipped,
      "skipped_in_a_row": max_skipped_in_a_row,
    }
    self._rows: list[metrics_lib.HostMetrics] = []
    self._pending: tuple[int, step_lib.Metrics, Batch] | None = None

  def add(self, step: int, metrics: step_lib.Metrics, batch: Batch) -> None:
    """Takes a step that was started; reads the one before."""
    self.read()
    self._pending = (step, metrics, batch)

  def read(self) -> None:
    """Waits for the last step that was added, and judges it."""
    if self._pending is None:
      return
    (step, metrics, batch), self._pending = self._pending, None
    row = jax.device_get(metrics)
    self._rows.append(row)
    bad = [n for n, x in row.items() if not np.isfinite(x).all()]
    over = [n for n, cap in self._caps.items() if n in row and row[n] > cap]
    if not bad and not over:
      return
    path = self._write_bad_batch(step, row, batch)
    if bad:
      raise errors.NonFinite(
        f"{' and '.join(bad)} not finite at step {step}; that update was not"
        f" applied. Its examples are in {path.name}; look at them, or lower the"
        " learning rate, and start from the last checkpoint."
      )
    message = (
      f"at step {step} {int(row['skipped'])} updates have been skipped as"
      f" spikes, {int(row['skipped_in_a_row'])} in a row, of at most"
      f" {self._caps['skipped']} and {self._caps['skipped_in_a_row']}: training"
      f" diverges. The last examples are in {path.name}; lower the learning"
      " rate, or raise the bound."
    )
    if "skipped" in over:
      raise errors.NonFinite(message)
    raise Diverged(message, step)

  def close(self) -> dict[str, float]:
    """The window's numbers; the next one begins."""
    self.read()
    rows, self._rows = self._rows, []
    return metrics_lib.summarize(rows)

  def _write_bad_batch(
    self, step: int, row: metrics_lib.HostMetrics, batch: Batch
  ) -> epath.Path:
    """What names the examples, and which of them are themselves not finite."""
    index = jax.process_index()
    name = f"bad_batch_{index}.json" if index else "bad_batch.json"
    # As text: JSON has no NaN.
    scalars = {n: str(x) for n, x in row.items() if np.ndim(x) == 0}
    value = {
      "step": step,
      "metrics": scalars,
      "examples": examples(batch),
      "rows_not_finite": rows_not_finite(batch),
    }
    files.write_json(self._workdir / name, value)
    return self._workdir / name


def examples(batch: Batch) -> dict[str, list]:
  """Keys, captions, and whatever else has one word or integer an example."""
  return {
    name: list(values) if isinstance(values, list) else values.tolist()
    for name, values in batch.items()
    if isinstance(values, list)
    or (values.ndim == 1 and np.issubdtype(values.dtype, np.integer))
  }


def rows_not_finite(batch: Batch) -> list[int]:
  """The rows of a batch in which an array holds a NaN or infinity."""
  rows: set[int] = set()
  for values in batch.values():
    if isinstance(values, np.ndarray) and np.issubdtype(
      values.dtype, np.floating
    ):
      finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
      rows |= set(np.flatnonzero(~finite).tolist())
  return sorted(rows)
