"""The time of day for files, which never goes back while a process lives.

A machine's clock is set now and then, by hours or back; durations taken from it
would be wrong, or negative. So it is read once, and a monotonic clock adds what
has passed since. A sleep of the machine may be missing from it.
"""

import functools
import time


def now() -> float:
  """Seconds since 1970."""
  return _beginning() + time.monotonic()


@functools.cache
def _beginning() -> float:
  return time.time() - time.monotonic()
