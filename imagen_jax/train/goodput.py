"""Where the wall time of a run went, from its files alone.

Productive is the time of the steps that the weights of today rest on. The rest
has a kind:

  compile, data_wait, save, evaluate   as the loop measured them
  restore      reading a checkpoint
  recomputed   steps that were done, lost with a kill, and done again
  down         from the last sign of a process to the next start
  other        starting up, shutting down, and what nothing measured

and all of it adds up to the wall time. When a later start resumed from step n,
the steps of this one after n are lost; its steps share their time by number.
What a killed process did after its last line is not known, and so `down`. The
pause after a run that was done is not counted.

Read are `event`, `time`, `step` and `seconds` of events.jsonl, and `time`,
`step`, `attempt` and the seconds of `clock` of metrics.jsonl and
metrics_lost.jsonl.
"""

import dataclasses
from collections.abc import Iterable

from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.train import clock, events, writers

_OWN = ("productive", "recomputed", "restore", "down", "other")
KINDS = (_OWN[0], *clock.WAITS, *_OWN[1:])
_OF_ROWS = ("data_wait", "save", "evaluate")
_OPENING = ("start", "damaged")  # events that come before a restore


@dataclasses.dataclass(frozen=True)
class Goodput:
  """Seconds by kind, and steps."""

  seconds: dict[str, float]
  steps_kept: int
  steps_lost: int
  starts: int

  @property
  def wall(self) -> float:
    """All seconds."""
    return sum(self.seconds.values())

  def share(self, kind: str = "productive") -> float:
    """The part of the wall time that is of this kind."""
    return self.seconds[kind] / self.wall if self.wall else 0.0


def read(workdir: epath.PathLike) -> Goodput:
  """The account of a workdir, of a run that goes on or is over."""
  workdir = epath.Path(workdir)
  happened = _lines(workdir / events.FILE)
  if not happened:
    raise errors.BadInput(
      f"no {events.FILE} in {str(workdir)!r}; give the workdir of a run."
    )
  rows = _lines(workdir / writers.METRICS) + _lines(workdir / writers.LOST)
  return account(happened, rows)


def account(happened: Iterable[dict], rows: Iterable[dict]) -> Goodput:
  """The account of events in the order of their file, and of all rows."""
  attempts = _attempts(happened, rows)
  total = dict.fromkeys(KINDS, 0.0)
  steps_kept = steps_lost = 0
  for i, attempt in enumerate(attempts):
    later = attempts[i + 1 :]
    first, last = attempt.first_step(), attempt.last_step()
    kept = max(min([last, *(a.first_step() for a in later)]) - first, 0)
    lost = last - first - kept
    seconds = attempt.seconds(kept, lost)
    if later and not attempt.done():
      # Negative where the clock was set back in between.
      seconds["down"] = max(later[0].began - attempt.ended, 0.0)
    for kind, value in seconds.items():
      total[kind] += value
    steps_kept, steps_lost = steps_kept + kept, steps_lost + lost
  return Goodput(total, steps_kept, steps_lost, len(attempts))


def table(goodput: Goodput) -> str:
  """The account as text, a kind a line."""
  rows = [
    f"{kind:<12}{seconds:>14,.1f} s {goodput.share(kind):>7.1%}"
    for kind, seconds in goodput.seconds.items()
  ]
  rows.append(f"{'wall':<12}{goodput.wall:>14,.1f} s {1:>7.1%}")
  rows.append(
    f"{goodput.steps_kept:,} steps kept, {goodput.steps_lost:,} lost, in"
    f" {goodput.starts} start{'' if goodput.starts == 1 else 's'}"
  )
  return "\n".join(rows)


@dataclasses.dataclass
class _Attempt:
  """One process, from its start to its last line."""

  number: int  # of the start, from 1
  events: list[dict]
  rows: list[dict] = dataclasses.field(default_factory=list)

  @property
  def began(self) -> float:
    return self.events[0]["time"]

  @property
  def ended(self) -> float:
    return max(line["time"] for line in (*self.events, *self.rows))

  def of(self, *kinds: str) -> list[dict]:
    return [event for event in self.events if event["event"] in kinds]

  def done(self) -> bool:
    return any(event.get("reason") == "done" for event in self.of("exit"))

  def first_step(self) -> int:
    return (self.of("restore") or self.events)[0]["step"]

  def last_step(self) -> int:
    signs = self.rows + self.of("save", "preempt", "exit")
    return max([self.first_step(), *(sign["step"] for sign in signs)])

  def stepping(self) -> float:
    """Seconds from when it could step to the last sign that it did."""
    signs = self.rows or [self.events[0]]
    # A save beyond the last row is of steps without one.
    logged = max(sign["step"] for sign in signs)
    signs = signs + [e for e in self.of("save") if e["step"] > logged]
    ready = self.of("start", "restore", "compile")
    begins = max((event["time"] for event in ready), default=self.began)
    return max(max(sign["time"] for sign in signs) - begins, 0.0)

  def seconds(self, kept: int, lost: int) -> dict[str, float]:
    """Seconds by kind, which add up to this process's; without `down`."""
    seconds = {
      kind: _total(self.of(kind), "seconds") for kind in ("compile", "restore")
    }
    seconds |= {kind: _total(self.rows, f"{kind}_s") for kind in _OF_ROWS}
    busy = self.stepping() - sum(seconds[kind] for kind in _OF_ROWS)
    busy = max(busy, 0.0) if kept + lost else 0.0
    seconds["productive"] = busy * kept / max(kept + lost, 1)
    seconds["recomputed"] = busy * lost / max(kept + lost, 1)
    rest = self.ended - self.began - sum(seconds.values())
    seconds["other"] = max(rest, 0.0)
    return seconds


def _attempts(happened: Iterable[dict], rows: Iterable[dict]) -> list[_Attempt]:
  """Processes in their order, each row with the one that wrote it.

  Not by time alone: the clock may be set back between two processes.
  """
  found: list[_Attempt] = []
  number = 0
  for event in happened:
    number += event["event"] == "start"
    opened = found and all(e["event"] in _OPENING for e in found[-1].events)
    new = event["event"] == "start" or (
      event["event"] in ("restore", "damaged") and not opened
    )
    if new or not found:
      found.append(_Attempt(number, [event]))
    else:
      found[-1].events.append(event)
  # A kill while rows are moved leaves them in both files.
  once = {(row["time"], row["step"]): row for row in rows}
  for row in once.values():
    own = [
      attempt
      for attempt in found
      if attempt.began <= row["time"]
      and row.get("attempt", attempt.number) == attempt.number
    ]
    (own or found[:1])[-1].rows.append(row)
  return found


def _total(lines: list[dict], name: str) -> float:
  return sum((line.get(name, 0.0) for line in lines), 0.0)


def _lines(path: epath.Path) -> list[dict]:
  return list(files.read_jsonl(path)) if path.exists() else []
