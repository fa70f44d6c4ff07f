"""Paths local or gs://, atomic writes, JSON lines, SHA-256.

A file is written beside its final name and renamed, so that a reader never sees
half of it.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from etils import epath

from imagen_jax.core import errors

PathLike: TypeAlias = str | os.PathLike
Json: TypeAlias = dict | list | str | int | float | bool | None


def atomic_write(path: PathLike, data: bytes) -> None:
  """Writes `data` under a temporary name, then renames it to `path`."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
  try:
    temporary.write_bytes(data)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: PathLike, value: Json) -> None:
  """Writes `value` as indented JSON, atomically."""
  text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
  atomic_write(path, (text + "\n").encode())


def append_jsonl(path: PathLike, value: dict) -> None:
  """Appends one JSON object as one line (local paths).

  Where a killed program left half a line, that line is ended first.
  """
  line = json.dumps(value, ensure_ascii=False) + "\n"
  with open(path, "ab+") as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      line = line if file.read(1) == b"\n" else f"\n{line}"
    file.write(line.encode())


def read_jsonl(path: PathLike) -> Iterator[dict]:
  """The objects of a JSON-lines file; a torn line is passed over."""
  with open(path, encoding="utf-8", errors="replace") as file:
    for line in file:
      if line.endswith("\n") and line.strip():
        with contextlib.suppress(json.JSONDecodeError):
          yield json.loads(line)


def sha256_file(path: PathLike) -> str:
  """Hex SHA-256 of a file, read in pieces of 1 MiB."""
  digest = hashlib.sha256()
  with epath.Path(path).open("rb") as file:
    while piece := file.read(1 << 20):
      digest.update(piece)
  return digest.hexdigest()


def sha256_files(paths: Iterable[PathLike]) -> str:
  """Hex SHA-256 of several files: over the digests of each, in order."""
  digest = hashlib.sha256()
  for path in paths:
    digest.update(sha256_file(path).encode())
  return digest.hexdigest()


def size_text(count: int | float) -> str:
  """A number of bytes as people read it: "469 MB"."""
  for unit in ("B", "kB", "MB", "GB"):
    if count < 999.5:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.3g} TB"


def check_writable(folder: PathLike) -> epath.Path:
  """Makes `folder` and proves that a file can be written in it."""
  folder = epath.Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{uuid.uuid4().hex[:8]}"
    probe.write_bytes(b"")
    probe.unlink()
  except OSError as error:
    reason = error.strerror or str(error)
    raise errors.BadInput(
      f"cannot write in {os.fspath(folder)!r} ({reason}); give a folder that"
      " can be made and written."
    ) from error
  return folder
