"""Embeddings of captions on disk, read with no encoder in memory.

  store[i]              example i of the caption source   [m d] float32
  store.rows(captions)  the same by caption               one [m d] each
  store.embed(captions) padded to max_length              [b l d], [b l]

`embed` stands in for an encoder's. See `store_format` for what is on disk and
`precompute` for how it gets there. Local folders only: ArrayRecord, as it is
published, opens no gs://; mount the bucket or copy the store.
"""

import functools
import pathlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from array_record.python import array_record_module
from jaxtyping import Float32, Int64

from imagen_jax.core import errors, files
from imagen_jax.text import embedded, store_format, store_index

# A big store has more shards than a process may open files.
_OPEN_SHARDS = 32  # of each thread
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_SHOWN_PROBLEMS = 4
_AGAIN = "copy the store again, or make it again with `imagen embed`"


class EmbeddingStore:
  """Random access to the embeddings of one store. Safe to share by threads.

  `expected` is what the caller needs the embeddings to be. `checked` compares
  size and SHA-256 of every file on opening, which reads each byte once; sizes,
  counts, and both ends of every shard are compared in any case.
  """

  def __init__(
    self,
    folder: files.PathLike,
    *,
    expected: store_format.Identity | None = None,
    checked: bool = True,
  ):
    self._folder = pathlib.Path(folder)
    self.manifest = store_format.read_manifest(folder)
    self._check_identity(expected or store_format.Identity())
    counts = [shard.records for shard in self.manifest.shards]
    self._ends = np.cumsum(counts, dtype=np.int64)
    self._local = threading.local()
    self._raise(self._file_problems(checked))
    self._index = self._load_index()
    self._raise(self._shard_problems())

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the manifest, which holds that of every other file."""
    return self.manifest.fingerprint

  def __len__(self) -> int:
    return self.manifest.examples

  def __getitem__(self, example: int) -> Float32[np.ndarray, "m d"]:
    if not 0 <= example < len(self):
      raise IndexError(f"example {example} of a store of {len(self)}")
    return self._read(self._index.examples[example : example + 1])[0]

  def rows(self, captions: Sequence[str]) -> list[Float32[np.ndarray, "_ d"]]:
    """The real tokens of each caption; equal captions share an array."""
    records = store_index.lookup(self._index, store_index.digests(captions))
    if (records < 0).any():
      unknown = [captions[i] for i in np.flatnonzero(records < 0)]
      raise errors.DataError(
        f"{len(unknown)} of {len(captions)} captions are not in the store"
        f" {str(self._folder)!r}, the first is"
        f" {store_index.shown(unknown[0])}; run `imagen embed` on captions"
        " that include it."
      )
    return self._read(records)

  def embed(self, captions: Sequence[str]) -> embedded.Embedded:
    """What the encoder gives for these captions, up to rounding."""
    _, _, _, max_length, width, _ = self.manifest.identity
    return embedded.pad_rows(self.rows(captions), max_length, width)

  def _check_identity(self, expected: store_format.Identity) -> None:
    has, asked = self.manifest.identity._asdict(), expected._asdict()
    if differing := store_format.differences(has, asked):
      raise errors.BadInput(
        f"the store {str(self._folder)!r} holds other embeddings: {differing}."
        " Give the store that belongs to this encoder, or make one with"
        " `imagen embed`."
      )

  def _raise(self, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
      more = len(found) - _SHOWN_PROBLEMS
      raise errors.DataError(
        f"the store {str(self._folder)!r} is damaged: "
        + "; ".join(found[:_SHOWN_PROBLEMS])
        + (f"; and {more} more" if more > 0 else "")
        + f". Do {_AGAIN}."
      )

  def _file_problems(self, checked: bool) -> Iterator[str]:
    """Compares the files with the manifest."""
    lines = (*self.manifest.shards, *self.manifest.indexes)
    for line in lines:
      path = self._folder / line.file
      try:
        size = path.stat().st_size
        if size != line.bytes:
          yield f"{line.file} has {size} bytes, not {line.bytes}"
        elif checked and files.sha256_file(path) != line.sha256:
          yield f"{line.file} does not have the SHA-256 of the manifest"
      except OSError as error:
        yield f"{line.file} cannot be read ({error.strerror})"
    told = {line.file for line in lines}
    for path in sorted(self._folder.glob("*.array_record")):
      if path.name not in told:
        yield f"{path.name} is not in the manifest"

  def _load_index(self) -> store_index.Index:
    """The index, mapped from its files."""
    manifest = self.manifest
    lengths = (manifest.captions, manifest.captions, manifest.examples)
    dtypes = (store_index.DIGEST, np.int64, np.int64)
    arrays = []
    for file, length, dtype in zip(
      store_format.INDEX_FILES, lengths, dtypes, strict=True
    ):
      try:
        array = np.lib.format.open_memmap(self._folder / file, mode="r")
      except (OSError, ValueError) as error:
        self._raise(iter([f"{file} cannot be read ({error})"]))
      if (array.shape, array.dtype) != ((length,), dtype):
        self._raise(iter([f"{file} is {array.dtype}{list(array.shape)}"]))
      arrays.append(array)
    return store_index.Index(*arrays)

  def _shard_problems(self) -> Iterator[str]:
    """Compares counts and both ends of every shard with the index."""
    if len(self._ends) == 0 or self._ends[-1] != self.manifest.captions:
      yield "its shards do not hold as many captions as its index"
      return
    for number, shard in enumerate(self.manifest.shards):
      end = self._ends[number]
      try:
        self._read_shard(number, np.array([end - shard.records, end - 1]))
      except ValueError as error:
        yield f"{shard.file} {error}"

  def _read(
    self, records: Int64[np.ndarray, "q"]
  ) -> list[Float32[np.ndarray, "_ d"]]:
    """Records by number: each read once, a shard at a time."""
    unique, places = np.unique(records, return_inverse=True)
    if not ((unique >= 0) & (unique < self.manifest.captions)).all():
      self._raise(iter(["its index names records that are not there"]))
    shards = np.searchsorted(self._ends, unique, side="right")
    rows = []
    for number in np.unique(shards).tolist():
      try:
        rows += self._read_shard(number, unique[shards == number])
      except ValueError as error:
        shard = self.manifest.shards[number]
        self._raise(iter([f"{shard.file} {error}"]))
    return [rows[place] for place in places]

  def _read_shard(
    self, number: int, records: Int64[np.ndarray, "q"]
  ) -> list[Float32[np.ndarray, "_ d"]]:
    """Records of one shard; a ValueError says what is wrong with it."""
    manifest = self.manifest
    start = self._ends[number] - manifest.shards[number].records
    try:
      found = self._reader(number).read((records - start).tolist())
    except (RuntimeError, IndexError) as error:
      raise ValueError(
        f"cannot be read ({str(error).splitlines()[0]})"
      ) from error
    heads = b"".join(data[: store_index.DIGEST_BYTES] for data in found)
    digests = np.frombuffer(heads, store_index.DIGEST)
    if (store_index.lookup(self._index, digests) != records).any():
      raise ValueError("does not hold the captions that the index says")
    width = manifest.identity.width
    return [
      store_format.decode_row(
        data[store_index.DIGEST_BYTES :], manifest.dtype, width
      )
      for data in found
    ]

  def _reader(self, number: int) -> array_record_module.ArrayRecordReader:
    """The shard's reader of this thread; the least recently used close."""
    if not hasattr(self._local, "open"):
      self._local.open = functools.lru_cache(_OPEN_SHARDS)(self._open)
    return self._local.open(number)

  def _open(self, number: int) -> array_record_module.ArrayRecordReader:
    shard = self.manifest.shards[number]
    reader = array_record_module.ArrayRecordReader(
      str(self._folder / shard.file), _READER_OPTIONS
    )
    if reader.num_records() != shard.records:
      raise ValueError(
        f"has {reader.num_records()} records, not {shard.records}"
      )
    return reader
