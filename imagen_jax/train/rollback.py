"""Going back when training diverges, and on from there with other batches.

After too many spikes in a row a run goes on from a checkpoint of about a
hundred steps before, without the batches it had seen since (PaLM, section 5.1).
`rollbacks.json` of a workdir has an entry for each time, in that order:

  {"at": 1250, "to": 1000, "offset": 250, "done": true}

At step 1250 it diverged, and was taken back to 1000; and from there on

  position(n) = n + offset

is the place in the stream of the batch of step n. Of several entries the newest
with to <= n holds, before the first it is n. So no batch that was used before a
rollback is used after it, and the batch of a step is still a function of (data,
seed, n), and of this file. It is on the disk before a checkpoint is deleted; a
start that finds an entry which is not done, does what is left of it.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from etils import epath

from imagen_jax.core import errors, faults, files
from imagen_jax.train import manifest, step_folders

FILE = "rollbacks.json"

T = TypeVar("T")


class Rollback(NamedTuple):
  """An entry of the file."""

  at: int  # the step that was one spike too many
  to: int  # the step of the checkpoint
  offset: int  # from there on, of positions before steps
  done: bool  # checkpoints after `to` are deleted


Rollbacks = Sequence[Rollback]


def position(taken: Rollbacks, step: int) -> int:
  """Where in the stream the batch of a step is."""
  offsets = [entry.offset for entry in taken if entry.to <= step]
  return step + (offsets[-1] if offsets else 0)


def batches(
  stream: Callable[[int], Iterator[T]], taken: Rollbacks, start: int
) -> Iterator[T]:
  """Those of steps start, start + 1, ...; `stream` has them by position."""
  later = sorted({entry.to for entry in taken if entry.to > start})
  for first, end in itertools.pairwise([start, *later, None]):
    count = None if end is None else end - first
    yield from itertools.islice(stream(position(taken, first)), count)


def plan(
  taken: Rollbacks, saved: Sequence[int], at: int, *, steps: int, skip: int
) -> Rollback:
  """Back to the newest of `saved` at least `steps` before `at`, or the oldest.

  All batches from there to `at` are skipped, and at least `skip`.
  """
  to = max((s for s in saved if s <= at - steps), default=min(saved))
  first = max(position(taken, at), position(taken, to) + skip)
  return Rollback(at, to, first - to, done=False)


def read(workdir: epath.Path) -> tuple[Rollback, ...]:
  """All there were, oldest first."""
  path = workdir / FILE
  if not path.exists():
    return ()
  try:
    entries = files.parse_json(path.read_text())
    taken = tuple(Rollback(**entry) for entry in entries)
    if not all(isinstance(n, int) for entry in taken for n in entry):
      raise ValueError("steps are whole numbers")
    return taken
  except (ValueError, TypeError) as error:
    raise errors.CheckpointError(
      f"{path} is damaged ({error}): which batches come next is not known."
      " Restore it from a backup, or train in another --workdir."
    ) from error


def note(workdir: epath.Path, taken: Rollbacks, new: Rollback) -> None:
  """Adds an entry; from here on the rollback happens, come what may."""
  _write(workdir, [*taken, new])
  faults.point("rollback.after_note")


def finish(workdir: epath.Path) -> None:
  """Deletes the checkpoints after the last rollback, if that is not done."""
  taken = read(workdir)
  if not taken or taken[-1].done:
    return
  folder = workdir / step_folders.FOLDER
  for step in step_folders.steps_in(folder):
    if step > taken[-1].to:
      # The manifest first: who looks for the newest looks for a sealed one.
      manifest.path(folder, step).unlink(missing_ok=True)
      faults.point("rollback.before_delete")
      (folder / str(step)).rmtree()
  faults.point("rollback.after_delete")
  _write(workdir, [*taken[:-1], taken[-1]._replace(done=True)])


def told(taken: Rollbacks, most: int) -> str:
  """What was tried, as a sentence."""
  ways = ", ".join(f"from step {entry.at} to {entry.to}" for entry in taken)
  return (
    f"It has gone back {len(taken)} of at most {most} times"
    f"{': ' if ways else ''}{ways}."
  )


def _write(workdir: epath.Path, taken: Rollbacks) -> None:
  """An atomic write that is on the disk when it is done (a local one)."""
  text = json.dumps([entry._asdict() for entry in taken], indent=1)
  temporary = workdir / f".{FILE}.tmp"
  temporary.write_text(text + "\n")
  _flush(temporary)
  temporary.replace(workdir / FILE)
  _flush(workdir)


def _flush(path: epath.Path) -> None:
  if "://" in os.fspath(path):
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
