"""Faults on purpose, at named points, to test that a run survives them.

  IMAGEN_FAULT=kill@save.before_commit:3 imagen train ...

kills the process as it passes `save.before_commit` the third time (the first,
without a number). Unset, as it is by default, a point is one look into the
environment. Actions: `kill` (SIGKILL), `sigterm`, `raise`, `sleep` (for good).
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable

from imagen_jax.core import errors

VARIABLE = "IMAGEN_FAULT"
_passed: dict[str, int] = {}  # how often each point was passed, when armed
_lock = threading.Lock()  # a loader has threads


class Fault(RuntimeError):
  """What `raise` raises: a bug, as far as the program can tell."""


def point(name: str) -> None:
  """Does here what IMAGEN_FAULT asks for, if it names this point."""
  text = os.environ.get(VARIABLE)
  if text is None:
    return
  action, where, at = parse(text)
  if where != name:
    return
  with _lock:
    _passed[name] = _passed.get(name, 0) + 1
    now = _passed[name] == at
  if now:
    action(text)


def parse(text: str) -> tuple[Callable[[str], None], str, int]:
  """(what to do, the point, the time) of ACTION@POINT[:TIME]."""
  found = re.fullmatch(r"(\w+)@([\w.]+)(?::([1-9]\d*))?", text)
  if found is None or found[1] not in _ACTIONS:
    raise errors.BadInput(
      f"{VARIABLE}={text!r} is not ACTION@POINT[:TIME], for example"
      f" kill@after_step:3; actions are {', '.join(_ACTIONS)}."
    )
  return _ACTIONS[found[1]], found[2], int(found[3] or 1)


def _raise(text: str) -> None:
  raise Fault(f"{VARIABLE}={text}")


_ACTIONS: dict[str, Callable[[str], None]] = {
  "kill": lambda text: os.kill(os.getpid(), signal.SIGKILL),
  "sigterm": lambda text: os.kill(os.getpid(), signal.SIGTERM),
  "raise": _raise,
  "sleep": lambda text: time.sleep(1e6),
}
