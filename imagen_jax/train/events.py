"""`events.jsonl`: what happened to a run, one object a line, by process 0.

  start, compile, save, restore, preempt, watchdog, exit

each with its step and wall time; exit with the exit code, compile and save with
their seconds.
"""

import jax
from etils import epath

from imagen_jax.core import files, wall_time

FILE = "events.jsonl"


class Events:
  """Appends to the events of one workdir."""

  def __init__(self, workdir: epath.Path):
    self._path = workdir / FILE
    self._writes = jax.process_index() == 0

  def __call__(
    self,
    kind: str,
    step: int,
    reason: str = "",
    *,
    seconds: float | None = None,
    code: int | None = None,
  ) -> None:
    """One event; what is empty or None is left out."""
    if not self._writes:
      return
    entry = {"event": kind, "step": step, "time": round(wall_time.now(), 3)}
    entry |= {"reason": reason} if reason else {}
    entry |= {} if seconds is None else {"seconds": round(seconds, 3)}
    entry |= {} if code is None else {"code": code}
    files.append_jsonl(self._path, entry)


def starts(workdir: epath.Path) -> int:
  """How often a run has started, this time counted in."""
  path = workdir / FILE
  rows = files.read_jsonl(path) if path.exists() else ()
  return sum(row.get("event") == "start" for row in rows)
