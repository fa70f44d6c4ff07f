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


def is_remote(path: PathLike) -> bool:
  """Whether it is in a bucket, where a file appears whole or not at all."""
  return "://" in os.fspath(path)


def absolute(path: PathLike) -> epath.Path:
  """From the root; etils by itself takes gs:// for a folder in this one."""
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()


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
  """Appends one JSON object as one line.

  Where a killed program left half a line, that line is ended first. In a bucket
  none is left, and each line costs as much as the whole file.
  """
  line = json.dumps(value, ensure_ascii=False) + "\n"
  if is_remote(path):
    with epath.Path(path).open("ab") as file:
      file.write(line.encode())
    return
  with open(path, "ab+") as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      line = line if file.read(1) == b"\n" else f"\n{line}"
    file.write(line.encode())


def parse_json(text: str | bytes) -> Json:
  """What a JSON text says; all that is wrong with one is a short ValueError.

  `json` itself has others for 100,000 brackets, and for what is not UTF-8.
  """
  try:
    return json.loads(text)
  except UnicodeDecodeError as error:  # its repr holds all of the file
    raise ValueError(f"it is not {error.encoding}") from error
  except RecursionError as error:
    raise ValueError("it nests too deeply") from error


def is_plain_name(name: Json) -> bool:
  """Whether a name that a file gives is of a file beside it, and no path."""
  return (
    isinstance(name, str)
    and name not in ("", ".", "..")
    and not {"/", os.sep, "\0"} & set(name)
  )


def read_jsonl(path: PathLike) -> Iterator[dict]:
  """The objects of a JSON-lines file; any other line is passed over."""
  with epath.Path(path).open("rb") as file:
    for data in file:
      line = data.decode(errors="replace")
      if line.endswith("\n") and line.strip():
        with contextlib.suppress(ValueError):
          if isinstance(value := parse_json(line), dict):
            yield value


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
  if not os.fspath(folder):
    raise errors.BadInput("the name of a folder to write in is empty; give one")
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
