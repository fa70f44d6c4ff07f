"""The manifest beside a checkpoint: every file's size and SHA-256.

  checkpoints/4000/                 what Orbax wrote
  checkpoints/4000.manifest.json    written last, when Orbax has committed

    {"step": 4000, "about": {...}, "files": {name: {"bytes", "sha256"}},
     "sha256": of all the above}

Orbax itself restores about 96 of 100 flipped bits without a word. A file is
read once, several at a time; each is flushed to the disk before its digest
stands in a manifest.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from imagen_jax.core import errors, faults, files

_THREADS = 16  # hashing and reading both leave the interpreter's lock


class Manifest(NamedTuple):
  """What a checkpoint was when it was written."""

  step: int
  about: dict  # schema, config, fingerprints: see `checkpoints`
  files: dict[str, dict]  # by name below the step's folder


def path(folder: epath.Path, step: int) -> epath.Path:
  """Where the manifest of `step` is, if it has one."""
  return folder / f"{step}.manifest.json"


def write(folder: epath.Path, step: int, about: dict) -> None:
  """Reads all of `folder/step` and seals it; the last act of a save."""
  found = _listing(folder / str(step))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    digests = list(pool.map(_flushed_digest, found.values()))
  for inner in {file.parent for file in found.values()}:
    _flush(inner)
  entries = {
    name: {"bytes": _size(file), "sha256": digest}
    for (name, file), digest in zip(found.items(), digests, strict=True)
  }
  body = {"step": step, "about": about, "files": entries}
  _write(path(folder, step), _encode(json.loads(json.dumps(body, default=str))))


def read(folder: epath.Path, step: int) -> Manifest:
  """The manifest of `step`; CheckpointError if it is not what was written."""
  where = path(folder, step)
  data = where.read_bytes()
  try:
    body = files.parse_json(data)
    del body["sha256"]
    if data != _encode(body) or body["step"] != step:
      raise ValueError("its own SHA-256 is another")
    return Manifest(**body)
  except (ValueError, KeyError, TypeError) as error:
    raise errors.CheckpointError(f"{where.name} is damaged: {error}") from error


def faults_of(folder: epath.Path, step: int) -> list[str]:
  """What differs from the manifest, file by file; empty if nothing does.

  A file that cannot be read raises OSError: that is no proof of damage.
  """
  if not path(folder, step).exists():
    return [f"{path(folder, step).name} is missing"]
  try:
    written = read(folder, step).files
  except errors.CheckpointError as error:
    return [str(error)]
  found = _listing(folder / str(step))
  complaints = [f"{name} is missing" for name in written.keys() - found]
  complaints += [f"{name} is not in it" for name in found.keys() - written]
  whole = []
  for name in sorted(written.keys() & found):
    size, expected = _size(found[name]), written[name]["bytes"]
    if size == expected:
      whole.append(name)
    else:
      complaints.append(f"{name} has {size} bytes, not {expected}")
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    digests = pool.map(files.sha256_file, [found[name] for name in whole])
    complaints += [
      f"{name} has another SHA-256"
      for name, digest in zip(whole, digests, strict=True)
      if digest != written[name]["sha256"]
    ]
  return sorted(complaints)


def _listing(folder: epath.Path) -> dict[str, epath.Path]:
  """All files below `folder`, by their names from there."""

  def below(inner: epath.Path) -> Iterator[epath.Path]:
    for entry in inner.iterdir():
      if entry.is_dir():
        yield from below(entry)
      else:
        yield entry

  found = {f.relative_to(folder).as_posix(): f for f in below(folder)}
  return dict(sorted(found.items()))


def _size(file: epath.Path) -> int:
  return file.stat().length


def _encode(body: dict) -> bytes:
  """The one text of `body`, with its own digest."""
  digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
  return json.dumps(
    body | {"sha256": digest}, indent=1, sort_keys=True
  ).encode()


def _flushed_digest(file: epath.Path) -> str:
  _flush(file)
  return files.sha256_file(file)


def _write(where: epath.Path, data: bytes) -> None:
  """An atomic write that survives a power cut (on local disks)."""
  temporary = where.parent / f".{where.name}.tmp"
  temporary.write_bytes(data)
  _flush(temporary)
  faults.point("manifest.before_rename")
  temporary.replace(where)
  _flush(where.parent)


def _flush(file: epath.Path) -> None:
  """To the disk; a bucket has every object there when its writer closes."""
  if files.is_remote(file):
    return
  descriptor = os.open(file, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
