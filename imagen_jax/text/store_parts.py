"""A store that is being written: who may write it, what is there, the end.

The folder holds finished shards, and in `.parts`

  plan.json       what is being made; another run must ask for the same
  00002.json      the manifest line of a finished shard, written behind it
  host-0-of-1.*   the lock of a host, and its one unfinished file

A process may die at any moment: a shard without a line, or unlike its line, is
written again, and unfinished files are written over. Index and manifest come
last, then `.parts` goes. A folder with a manifest is finished.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import filelock
import numpy as np
from absl import logging
from jaxtyping import Int64, Shaped

from imagen_jax.core import errors, files
from imagen_jax.text import store_format, store_index, store_writer

PLAN = "plan.json"


def open_folder(out: files.PathLike) -> pathlib.Path:
  """A new or empty folder, or one that holds a store or the start of one."""
  if "://" in os.fspath(out):
    raise errors.BadInput(
      f"{os.fspath(out)!r} is not a local folder; ArrayRecord writes nowhere"
      " else. Mount the bucket, or embed into a local folder and copy it."
    )
  folder = pathlib.Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    names = set(os.listdir(folder))
  except OSError as error:
    raise _cannot_write(folder, error) from error
  if names and not names & {store_format.MANIFEST, store_format.PARTS}:
    raise errors.BadInput(
      f"{str(folder)!r} is not empty and holds no embedding store; give a new"
      " folder."
    )
  return folder


def _cannot_write(folder: pathlib.Path, error: OSError) -> errors.BadInput:
  return errors.BadInput(
    f"cannot write in {str(folder)!r} ({error.strerror}); give a folder that"
    " can be made and written."
  )


@contextlib.contextmanager
def alone(folder: pathlib.Path, host: str) -> Iterator[None]:
  """Keeps a second run of the same host out; a dead run holds no lock."""
  parts = folder / store_format.PARTS
  lock = filelock.FileLock(parts / f"{host}.lock")
  try:
    parts.mkdir(exist_ok=True)
    lock.acquire(timeout=0)
  except filelock.Timeout as error:
    raise errors.BadInput(
      f"another run writes {host} of {str(folder)!r}; wait for it, stop it, or"
      " give another folder."
    ) from error
  except OSError as error:
    raise _cannot_write(folder, error) from error
  try:
    yield
  finally:
    lock.release()


def finished(folder: pathlib.Path) -> bool:
  """Whether the manifest, which comes last, is there."""
  return (folder / store_format.MANIFEST).exists()


@dataclasses.dataclass(frozen=True)
class Unfinished:
  """A store to be, as one host sees it."""

  folder: pathlib.Path
  host: str
  plan: dict[str, files.Json]
  digests: Shaped[np.ndarray, "n"]
  index: store_index.Index
  firsts: Int64[np.ndarray, "u"]  # where each record's caption first occurs

  @property
  def shards(self) -> int:
    """How many there are to be, of all hosts."""
    return -(-len(self.firsts) // self.plan["shard_size"])

  def positions(self, number: int) -> Int64[np.ndarray, "r"]:
    """Where in the stream the captions of a shard are."""
    size = self.plan["shard_size"]
    return self.firsts[number * size : (number + 1) * size]

  def refuse_other(self, has: dict[str, files.Json]) -> None:
    """A folder keeps to the captions and settings that it was begun with."""
    if differing := store_format.differences(has, self.plan):
      raise errors.BadInput(
        f"{str(self.folder)!r} was begun with other captions or settings:"
        f" {differing}. Give the same ones, or another folder."
      )

  def agree(self) -> None:
    """Writes the plan, or compares it with the one that is there."""
    path = self.folder / store_format.PARTS / PLAN
    try:
      has = files.parse_json(path.read_bytes())
    except FileNotFoundError:
      store_writer.write_file(path, self.plan, temporary=self._temporary)
      return
    except ValueError:  # damaged
      has = {}
    self.refuse_other(has)

  def shard_writer(self, number: int) -> store_writer.ShardWriter:
    """Of the file only: its line is written by `add_line`."""
    name = store_format.shard_name(number, self.shards)
    return store_writer.ShardWriter(
      self.folder / name, temporary=self._temporary, dtype=self.plan["dtype"]
    )

  def add_line(self, number: int, line: store_format.Shard) -> None:
    """Makes a written shard count as finished."""
    content = dataclasses.asdict(line)
    store_writer.write_file(
      self._line_path(number), content, temporary=self._temporary
    )

  def line(self, number: int, *, checked: bool) -> store_format.Shard | None:
    """The line of a shard that is there and, if `checked`, undamaged."""
    path = self._line_path(number)
    try:
      line = store_format.Shard(**files.parse_json(path.read_bytes()))
      shard = self.folder / store_format.shard_name(number, self.shards)
      same = (line.file, line.bytes) == (shard.name, shard.stat().st_size)
      if same and (not checked or files.sha256_file(shard) == line.sha256):
        return line
    except (OSError, ValueError, TypeError):
      pass
    if path.exists():
      logging.warning("shard %d of %s is damaged.", number, self.folder)
    return None

  def finish(self) -> int:
    """Writes index and manifest if no shard is missing; how many are.

    Hosts that finish together all write the same. One of them may have removed
    `.parts` meanwhile: then the manifest is there.
    """
    lines = [self.line(i, checked=False) for i in range(self.shards)]
    missing = lines.count(None)
    if not missing:
      try:
        self._write_manifest(lines)
      except errors.CheckpointError:
        if not finished(self.folder):
          raise
    return 0 if finished(self.folder) else missing

  def _write_manifest(self, lines: list[store_format.Shard]) -> None:
    indexes = []
    for name, array in zip(store_format.INDEX_FILES, self.index, strict=True):
      path = self.folder / name
      store_writer.write_file(path, array, temporary=self._temporary)
      size, sha256 = path.stat().st_size, files.sha256_file(path)
      indexes.append(store_format.IndexFile(name, size, sha256))
    content = store_format.to_json(
      self.plan, examples=len(self.digests), shards=lines, indexes=indexes
    )
    path = self.folder / store_format.MANIFEST
    store_writer.write_file(path, content, temporary=self._temporary)

  @property
  def _temporary(self) -> pathlib.Path:
    return self.folder / store_format.PARTS / f"{self.host}.tmp"

  def _line_path(self, number: int) -> pathlib.Path:
    return self.folder / store_format.PARTS / f"{number:05d}.json"
