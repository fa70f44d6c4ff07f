"""A `Source` over ArrayRecord shards, checked against their manifest.

A folder holds `manifest.json` and the shards it lists, in order:

  {"name": ..., "records": n,
   "shards": [{"file": ..., "records": n, "bytes": n, "sha256": hex}, ...]}

and whatever else is known of the set: "image_size" of the emoji set, which is
read as `records.Record`; "format" of sets that `imagen data build` makes, which
are read as `examples.Example`. Record i of the set is record i - (records of
the shards before) of its shard.
"""

import bisect
import dataclasses
import itertools
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from array_record.python import array_record_module

from imagen_jax.core import errors, files
from imagen_jax.data import records

MANIFEST = "manifest.json"
# One record a chunk, for random access; images do not compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"

T = TypeVar("T")


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
  shards: tuple[Shard, ...]
  content: dict[str, files.Json]  # all of it
  fingerprint: str

  @property
  def image_size(self) -> int:
    """The one size of all images, or DataError where they have none."""
    size = self.content.get("image_size")
    if not isinstance(size, int):
      raise errors.DataError(
        f"the set {self.name!r} has image_size {size!r} in its {MANIFEST}, a"
        " number of pixels was expected; fetch or build the set again."
      )
    return size


def read_manifest(folder: files.PathLike) -> Manifest:
  """The manifest of a folder of shards; BadInput if there is none."""
  path = pathlib.Path(folder) / MANIFEST
  try:
    content = files.parse_json(path.read_bytes())
    shards = tuple(
      Shard(
        str(s["file"]), int(s["records"]), int(s["bytes"]), str(s["sha256"])
      )
      for s in content["shards"]
    )
    name = str(content["name"])
    for shard in shards:  # the manifest may be another's
      if not files.is_plain_name(shard.file) or shard.records < 0:
        raise ValueError(f"{shard} is no shard of this folder")
  except FileNotFoundError as error:
    raise errors.BadInput(
      f"no {MANIFEST} in {os.fspath(folder)!r}; give the folder of a set, or"
      " install the package again."
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f"{str(path)!r} is not a manifest of shards ({error!r}); fetch or build"
      " the set again."
    ) from error
  return Manifest(name, shards, content, files.sha256_file(path))


def damage(
  folder: files.PathLike, shard: Shard, *, contents: bool = True
) -> str | None:
  """What is wrong with a shard; only its size is seen without `contents`."""
  path = pathlib.Path(folder) / shard.file
  try:
    size = path.stat().st_size
    if size != shard.bytes:
      return (
        f"shard {str(path)!r} is damaged: {size} bytes, its manifest says"
        f" {shard.bytes}"
      )
    digest = files.sha256_file(path) if contents else shard.sha256
  except OSError as error:
    return f"shard {str(path)!r} cannot be read ({error.strerror})"
  if digest != shard.sha256:
    return (
      f"shard {str(path)!r} is damaged: SHA-256 {digest[:12]}..., its manifest"
      f" says {shard.sha256[:12]}..."
    )
  return None


def verify(
  folder: files.PathLike, manifest: Manifest, *, contents: bool = True
) -> None:
  """Raises DataError for the first shard that is not as the manifest says."""
  for shard in manifest.shards:
    if wrong := damage(folder, shard, contents=contents):
      raise errors.DataError(
        f"{wrong}; fetch or build the set {manifest.name!r} again."
      )


class ArrayRecordSource(Generic[T]):
  """Random access to the records of a folder of shards.

  Readers are opened on first use, one for each thread; a copy by pickle opens
  its own. `checked` compares the shards with the manifest on opening, which
  reads each byte once.
  """

  def __init__(
    self,
    folder: files.PathLike,
    *,
    decode: Callable[[bytes], T] = records.decode,
    checked: bool = True,
  ):
    self.manifest = read_manifest(folder)
    if checked:
      verify(folder, self.manifest)
    self._folder = pathlib.Path(folder)
    self._decode = decode
    counts = (shard.records for shard in self.manifest.shards)
    self._ends = list(itertools.accumulate(counts))
    self._local = threading.local()

  def __getstate__(self) -> dict[str, object]:
    return {k: v for k, v in self.__dict__.items() if k != "_local"}

  def __setstate__(self, state: dict[str, object]) -> None:
    self.__dict__.update(state, _local=threading.local())

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the manifest, which holds that of every shard."""
    return self.manifest.fingerprint

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> T:
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of a set of {len(self)}")
    shard = bisect.bisect_right(self._ends, index)
    row = index - (self._ends[shard - 1] if shard else 0)
    try:
      return self._decode(self._read(shard, [row])[0])
    except errors.DataError as error:
      raise errors.DataError(f"record {index}: {error}") from error

  def read_all(self) -> list[T]:
    """Every record, in order."""
    found = []
    for number, shard in enumerate(self.manifest.shards):
      rows = self._read(number, range(shard.records))
      found.extend(self._decode(row) for row in rows)
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


def write_shard(
  path: files.PathLike,
  rows: Iterable[T],
  *,
  encode: Callable[[T], bytes] = records.encode,
) -> Shard:
  """Writes one shard and returns its line of the manifest."""
  path = pathlib.Path(path)
  writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
  count = 0
  try:
    for row in rows:
      writer.write(encode(row))
      count += 1
  finally:
    writer.close()
  return Shard(path.name, count, path.stat().st_size, files.sha256_file(path))


def write_manifest(
  folder: files.PathLike,
  shards: Sequence[Shard],
  *,
  name: str,
  image_size: int | None = None,
  notes: dict[str, files.Json],
) -> None:
  """Writes the manifest of a set; `notes` are further fields of it."""
  content = notes | {
    "name": name,
    "records": sum(shard.records for shard in shards),
    "shards": [dataclasses.asdict(shard) for shard in shards],
  }
  if image_size is not None:
    content["image_size"] = image_size
  files.write_json(pathlib.Path(folder) / MANIFEST, content)
