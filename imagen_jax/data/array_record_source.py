"""A `Source` over ArrayRecord shards, checked against their manifest.

A folder holds `manifest.json` and the shards it lists, in order:

  {"name": ..., "records": n, "image_size": 256, "groups": {name: count},
   "shards": [{"file": ..., "records": n, "bytes": n, "sha256": hex}, ...]}

Record i of the set is record i - (records of the shards before) of its shard.
"""

import bisect
import dataclasses
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Sequence

from array_record.python import array_record_module

from imagen_jax.core import errors, files
from imagen_jax.data import records

MANIFEST = "manifest.json"
# One record a chunk, for random access; WebP does not compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Shard:
  """One line of a manifest."""

  file: str
  records: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a set is meant to hold, and the SHA-256 of the manifest itself."""

  name: str
  image_size: int
  shards: tuple[Shard, ...]
  fingerprint: str


def read_manifest(folder: files.PathLike) -> Manifest:
  """The manifest of a folder of shards, or DataError."""
  path = pathlib.Path(folder) / MANIFEST
  try:
    content = json.loads(path.read_bytes())
    shards = tuple(
      Shard(
        str(s["file"]), int(s["records"]), int(s["bytes"]), str(s["sha256"])
      )
      for s in content["shards"]
    )
    name, size = str(content["name"]), int(content["image_size"])
  except FileNotFoundError as error:
    raise errors.DataError(
      f"no {MANIFEST} in {os.fspath(folder)!r}; give the folder of a set, or"
      " install the package again."
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f"{str(path)!r} is not a manifest of shards ({error!r}); fetch or build"
      " the set again."
    ) from error
  return Manifest(name, size, shards, files.sha256_file(path))


def verify(folder: files.PathLike, manifest: Manifest) -> None:
  """Compares size and SHA-256 of every shard with the manifest."""
  for shard in manifest.shards:
    path = pathlib.Path(folder) / shard.file
    try:
      size, digest = path.stat().st_size, files.sha256_file(path)
    except OSError as error:
      raise errors.DataError(
        f"shard {str(path)!r} of set {manifest.name!r} cannot be read"
        f" ({error.strerror}); fetch or build the set again."
      ) from error
    if (size, digest) != (shard.bytes, shard.sha256):
      raise errors.DataError(
        f"shard {str(path)!r} is damaged: {size} bytes with SHA-256"
        f" {digest[:12]}..., its manifest says {shard.bytes} bytes with"
        f" {shard.sha256[:12]}...; fetch or build the set again."
      )


class ArrayRecordSource:
  """Random access to the records of a folder of shards.

  Readers are opened on first use, one for each thread. `checked` compares the
  shards with the manifest on opening, which reads each byte once.
  """

  def __init__(self, folder: files.PathLike, *, checked: bool = True):
    self.manifest = read_manifest(folder)
    if checked:
      verify(folder, self.manifest)
    self._folder = pathlib.Path(folder)
    counts = (shard.records for shard in self.manifest.shards)
    self._ends = list(itertools.accumulate(counts))
    self._local = threading.local()

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the manifest, which holds that of every shard."""
    return self.manifest.fingerprint

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> records.Record:
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of a set of {len(self)}")
    shard = bisect.bisect_right(self._ends, index)
    start = self._ends[shard - 1] if shard else 0
    return records.decode(self._read(shard, [index - start])[0])

  def read_all(self) -> list[records.Record]:
    """Every record, in order."""
    found = []
    for number, shard in enumerate(self.manifest.shards):
      rows = self._read(number, range(shard.records))
      found.extend(records.decode(row) for row in rows)
    return found

  def _read(self, number: int, rows: Sequence[int]) -> list[bytes]:
    shard = self.manifest.shards[number]
    try:
      return self._reader(number).read(list(rows))
    except (RuntimeError, IndexError) as error:
      raise errors.DataError(
        f"shard {shard.file!r} of set {self.manifest.name!r} cannot be read"
        f" ({str(error).splitlines()[0]}); fetch or build the set again."
      ) from error

  def _reader(self, number: int) -> array_record_module.ArrayRecordReader:
    readers = self._local.__dict__.setdefault("readers", {})
    if number not in readers:
      path = self._folder / self.manifest.shards[number].file
      reader = array_record_module.ArrayRecordReader(str(path))
      found, told = reader.num_records(), self.manifest.shards[number].records
      if found != told:
        raise errors.DataError(
          f"shard {str(path)!r} has {found} records, its manifest says {told};"
          " fetch or build the set again."
        )
      readers[number] = reader
    return readers[number]


def write_shard(path: files.PathLike, rows: Sequence[records.Record]) -> Shard:
  """Writes one shard and returns its line of the manifest."""
  path = pathlib.Path(path)
  writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
  for row in rows:
    writer.write(records.encode(row))
  writer.close()
  return Shard(
    path.name, len(rows), path.stat().st_size, files.sha256_file(path)
  )


def write_manifest(
  folder: files.PathLike,
  shards: Sequence[Shard],
  *,
  name: str,
  image_size: int,
  notes: dict[str, files.Json],
) -> None:
  """Writes the manifest of a set; `notes` are further fields of it."""
  content = notes | {
    "name": name,
    "image_size": image_size,
    "records": sum(shard.records for shard in shards),
    "shards": [dataclasses.asdict(shard) for shard in shards],
  }
  files.write_json(pathlib.Path(folder) / MANIFEST, content)
