"""Restores workdirs in every way, and prints how each ended; a program.

  python -m tests.hostile.restoring_job WORKDIR ...

Apart from the tests, as Orbax leaves readers behind where one of them fails.
"""

import os
import sys
from collections.abc import Sequence

from imagen_jax.core import errors
from imagen_jax.train import checkpoints, restore
from tests.train import states


def whole(workdir: str) -> None:
  """As a run that goes on does."""
  saver = checkpoints.Checkpoints(workdir)
  try:
    saver.restore(states.abstract())
  finally:
    saver.close()


def params(workdir: str) -> None:
  """As an export does."""
  restore.restore_params(workdir, states.abstract().params)


def main(workdirs: Sequence[str]) -> None:
  """Anything but one of our errors ends it."""
  for workdir in workdirs:
    for read in (whole, params):
      try:
        read(workdir)
        print("restored", flush=True)
      except errors.ImagenError as error:
        print(type(error).__name__, flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
  os._exit(0)
