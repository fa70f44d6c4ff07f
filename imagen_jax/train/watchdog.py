"""Ends a run that hangs: stacks of all threads, then exit code 6.

JAX's heartbeats see a process that is dead, and none whose Python waits for
ever: for a loader, a file system, or a peer in a collective. So the loop says
at each turn what it does next, and a thread ends the process when that takes
too long.

  with Watchdog(workdir, minutes=10) as dog:
    dog.watch("step 7")                  # and so on, each time anew
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from absl import logging
from etils import epath

EXIT_CODE = 6
FILE = "stacks.txt"
# Compiling, saving and evaluating may take so many times as long as a step.
SLOW = 6.0
_LAST_WORDS = 5.0  # seconds: a file system may be what hangs


class Watchdog:
  """Waits in a thread for a turn that comes too late; 0 minutes never do."""

  def __init__(
    self,
    workdir: epath.Path,
    *,
    minutes: float,
    report: Callable[[str], None] = lambda reason: None,
  ):
    self._path = workdir / FILE
    self._seconds = 60 * minutes
    self._report = report
    self._turn = ("the start", 0.0, float("inf"))
    self._closed = threading.Event()
    if minutes > 0:
      threading.Thread(target=self._wait, name="watchdog", daemon=True).start()

  def watch(self, what: str, *, slow: bool = False) -> None:
    """From now on `what` is done, and has its time; the last is forgotten."""
    seconds = self._seconds * (SLOW if slow else 1)
    self._turn = (what, seconds, time.monotonic() + seconds)

  def __enter__(self) -> "Watchdog":
    return self

  def __exit__(self, *_: object) -> None:
    """Stops watching."""
    self._closed.set()

  def _wait(self) -> None:
    while not self._closed.wait(min(1.0, self._seconds / 4)):
      what, seconds, deadline = self._turn
      if time.monotonic() > deadline:
        self._end(f"{what} took longer than the {seconds:g} s it may take.")

  def _end(self, reason: str) -> None:
    words = threading.Thread(target=self._say, args=(reason,), daemon=True)
    words.start()
    words.join(_LAST_WORDS)
    os._exit(EXIT_CODE)

  def _say(self, reason: str) -> None:
    text = f"{reason}\n\n{stacks()}"
    logging.error("%s", text)
    sys.stderr.flush()
    self._path.write_text(text)
    self._report(reason)


def stacks() -> str:
  """Where each thread of Python is, the main one first."""
  names = {thread.ident: thread.name for thread in threading.enumerate()}
  main = threading.main_thread().ident
  frames = sorted(sys._current_frames().items(), key=lambda x: x[0] != main)
  return "\n".join(
    f"thread {names.get(ident, ident)!r}:\n"
    + "".join(traceback.format_stack(frame))
    for ident, frame in frames
  )
