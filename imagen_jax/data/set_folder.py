"""The folder of a set while it is built: all of the set appears, or none.

  .building/      shards, skipped.jsonl and manifest.json of the set to be

They are moved into the folder at the end, the manifest last: a folder without a
manifest does not open. After an error only skipped.jsonl is moved. A process
that is killed leaves `.building`, which the next one empties.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import filelock

from imagen_jax.core import errors, files
from imagen_jax.data import array_record_source

BUILDING = ".building"
SKIPPED = "skipped.jsonl"
_LOCK = "lock"


@contextlib.contextmanager
def begin(out: files.PathLike) -> Iterator[pathlib.Path]:
  """A folder to write a set in, which is then moved to `out`."""
  if "://" in os.fspath(out):
    raise errors.BadInput(
      f"{os.fspath(out)!r} is not a local folder; ArrayRecord writes nowhere"
      " else. Build into a local folder and copy it, or mount the bucket."
    )
  files.check_writable(out)
  out = pathlib.Path(out)
  building = out / BUILDING
  _check(out)
  building.mkdir(exist_ok=True)
  with _alone(building):
    _check(out)  # once more, as another build may have ended meanwhile
    _clear(out)
    try:
      (building / SKIPPED).touch()
      yield building
      _move(building, out)
    except (OSError, RuntimeError) as error:  # the latter is ArrayRecord's
      raise errors.CheckpointError(
        f"could not write in {str(out)!r}: {str(error).partition(chr(10))[0]}."
        " Free space and start again."
      ) from error
    finally:
      if (building / SKIPPED).exists():
        os.replace(building / SKIPPED, out / SKIPPED)
      shutil.rmtree(building)


def _check(out: pathlib.Path) -> None:
  names = set(os.listdir(out))
  if array_record_source.MANIFEST in names:
    raise errors.BadInput(
      f"{str(out)!r} holds a set already; give another folder, or remove it."
    )
  if BUILDING not in names and names - {SKIPPED}:
    raise errors.BadInput(
      f"{str(out)!r} is not empty, and no set that is being built; give a new"
      " folder."
    )


@contextlib.contextmanager
def _alone(building: pathlib.Path) -> Iterator[None]:
  """Keeps a second build out; a dead one holds no lock."""
  lock = filelock.FileLock(building / _LOCK)
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout as error:
    raise errors.BadInput(
      f"another process builds {str(building.parent)!r}; wait for it, stop it,"
      " or give another folder."
    ) from error
  try:
    yield
  finally:
    lock.release()


def _clear(out: pathlib.Path) -> None:
  """Removes what a killed build has left, in either folder."""
  for path in (*out.glob("*.array_record"), out / SKIPPED):
    path.unlink(missing_ok=True)
  for path in (out / BUILDING).iterdir():
    if path.name != _LOCK:
      path.unlink()


def _move(building: pathlib.Path, out: pathlib.Path) -> None:
  """Moves everything into place, the manifest last."""
  names = set(os.listdir(building)) - {_LOCK}
  for name in sorted(
    names, key=lambda n: (n == array_record_source.MANIFEST, n)
  ):
    os.replace(building / name, out / name)
