"""Writes the files of an embedding store, each whole or not at all.

A file is written under a temporary name, flushed to the disk, and renamed: a
process that is killed leaves no half of it under its final name. What cannot be
written is a CheckpointError (exit code 5), as for any failed save.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module
from jaxtyping import Float32, Shaped

from imagen_jax.core import errors, files
from imagen_jax.text import store_format

# One record a chunk, for random access; embeddings hardly compress.
_OPTIONS = "group_size:1,uncompressed"


@contextlib.contextmanager
def _saving(path: pathlib.Path) -> Iterator[None]:
  """ArrayRecord raises RuntimeError where others raise OSError."""
  try:
    yield
  except (OSError, RuntimeError) as error:
    reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
    raise errors.CheckpointError(
      f"could not write {str(path)!r}: {reason}. The shards finished before are"
      " as they were; free space and start again."
    ) from error


def _commit(temporary: pathlib.Path, path: pathlib.Path) -> None:
  """Flushes a file to the disk, then gives it its final name."""
  _flush(temporary)
  os.replace(temporary, path)
  _flush(path.parent)


def _flush(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_file(
  path: pathlib.Path,
  content: files.Json | Shaped[np.ndarray, "..."],
  *,
  temporary: pathlib.Path,
) -> None:
  """Writes JSON, or an array in NumPy's format."""
  with _saving(path):
    with open(temporary, "wb") as file:
      if isinstance(content, np.ndarray):
        np.save(file, content)
      else:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        file.write(f"{text}\n".encode())
    _commit(temporary, path)


class ShardWriter:
  """One shard: `add` its records in order, then `commit`."""

  def __init__(
    self,
    path: pathlib.Path,
    *,
    temporary: pathlib.Path,
    dtype: store_format.Dtype,
  ):
    self._path, self._temporary, self._dtype = path, temporary, dtype
    self._records = self._tokens = self._truncated = 0
    with _saving(path):
      # A writer given up in this process may still hold the old file.
      temporary.unlink(missing_ok=True)
      self._writer = array_record_module.ArrayRecordWriter(
        str(temporary), _OPTIONS
      )

  def add(
    self, digest: bytes, row: Float32[np.ndarray, "m d"], truncated: bool
  ) -> None:
    """Appends the record of one caption."""
    data = digest + store_format.encode_row(row, self._dtype)
    with _saving(self._path):
      self._writer.write(data)
    self._records += 1
    self._tokens += len(row)
    self._truncated += truncated

  def commit(self) -> store_format.Shard:
    """Closes the shard, moves it into place, returns its manifest line."""
    with _saving(self._path):
      self._writer.close()
      size = self._temporary.stat().st_size
      sha256 = files.sha256_file(self._temporary)
      _commit(self._temporary, self._path)
    return store_format.Shard(
      file=self._path.name,
      records=self._records,
      tokens=self._tokens,
      truncated=self._truncated,
      bytes=size,
      sha256=sha256,
    )
