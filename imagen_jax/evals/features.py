"""Features of many images by one network: streaming, sharded, resumable.

Images are decoded and prepared by threads of the host while the devices work on
the batch before. Each batch has one size, so that one program is compiled; the
last of a part is filled up with zeros. A batch is split over all devices of
this host.

A part is 512 images. Its features are kept as CACHE/KEY.npz, where KEY is the
SHA-256 of what the network is and of the bytes of each image: a run that was
stopped goes on behind the last part, the same images are never read by the same
network twice, and an image that has changed is.

Nothing but features stays in memory: 8 kB an image for Inception.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Params
from imagen_jax.data import decode, image_item

PART = 512  # images
_FORMAT = "features, 1"
_THREADS = min(8, os.cpu_count() or 1)

Rows: TypeAlias = dict[str, Float[np.ndarray, "_ _"]]
Prepared: TypeAlias = Float[np.ndarray, "h w 3"]


# eq=False: compared and hashed by identity, so that jit can hold it static.
@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """What makes features of images."""

  # One image of any size -> what the network reads, all of one size.
  prepare: Callable[[UInt8[np.ndarray, "h w 3"]], Prepared]
  # (params, batch) -> features by name, a row for each image.
  apply: Callable[
    [Params, Float[Array, "b h w 3"]], dict[str, Float[Array, "b _"]]
  ]
  params: Params
  identity: Mapping[str, str]  # weights, resize: all that a number hangs on


class Features(NamedTuple):
  """The features of a set, row by row, and what they were made of."""

  rows: Rows
  keys: tuple[str, ...]  # of the images, by row
  images: str  # SHA-256 of all files, in order
  identity: Mapping[str, str]  # of the network
  sizes: Mapping[str, int]  # "64x64": how many
  skipped: tuple[str, ...]  # images that could not be read, and why

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the images and of what the network is."""
    return _sha256([self.images, self.identity])


class _Part(NamedTuple):
  """Of each image its features, or in their place what is wrong with it."""

  rows: Rows  # of those without a problem
  problems: list[str]  # "" is none
  sizes: list[str]


def run(
  items: Iterable[image_item.Item],
  network: Network,
  *,
  cache: files.PathLike,
  batch_size: int = 64,
  skip_damaged: bool = False,
  progress: Callable[[int], None] = lambda done: None,
) -> Features:
  """The features of all images; `progress` hears how many are done.

  An image that cannot be read is a DataError, or is left out and named.
  """
  if batch_size < 1:
    raise errors.BadInput(f"batch_size {batch_size} is given; take at least 1.")
  folder = files.check_writable(cache)
  layout = _Layout(network, batch_size)
  digests, keys, parts, skipped = [], [], [], []
  sizes: Counter[str] = Counter()
  done = 0
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for some in _in_parts(items, PART):
      own = [hashlib.sha256(item.image).hexdigest() for item in some]
      path = folder / f"{_sha256([_FORMAT, dict(network.identity), own])}.npz"
      part = _read(path, len(some))
      if part is None:
        part = _compute(some, network, layout, pool, skip_damaged)
        files.atomic_write(path, _encode(part))
      for item, digest, problem, size in zip(
        some, own, part.problems, part.sizes, strict=True
      ):
        if problem:
          skipped.append(_refuse(item, problem, skip_damaged))
          continue
        digests.append(digest)
        keys.append(item.key)
        sizes[size] += 1
      parts.append(part.rows)
      done += len(some)
      progress(done)
  if not keys:
    raise errors.BadInput("there are no images that can be read; give some.")
  kept = [rows for rows in parts if rows]
  rows = {n: np.concatenate([part[n] for part in kept]) for n in kept[0]}
  return Features(
    rows,
    tuple(keys),
    _sha256(digests),
    dict(network.identity),
    dict(sizes),
    tuple(skipped),
  )


class _Layout:
  """The network on the devices of this host."""

  def __init__(self, network: Network, batch_size: int):
    devices = jax.local_devices()
    self.batch_size = -(-batch_size // len(devices)) * len(devices)
    mesh = jax.sharding.Mesh(np.asarray(devices), ("data",))
    self._split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    self._params = jax.device_put(network.params, whole)
    self._apply = jax.jit(network.apply)

  def __call__(self, x: Sequence[Prepared]) -> dict[str, Float[Array, "b _"]]:
    """Features of at most a batch, which is filled up."""
    batch = np.zeros((self.batch_size, *x[0].shape), np.float32)
    batch[: len(x)] = x
    return self._apply(self._params, jax.device_put(batch, self._split))


def _compute(
  items: Sequence[image_item.Item],
  network: Network,
  layout: _Layout,
  pool: concurrent.futures.Executor,
  skip_damaged: bool,
) -> _Part:
  """A part by the network, one batch behind the threads that prepare."""
  prepare = functools.partial(_prepare, network)
  chunks = iter(_in_parts(items, layout.batch_size))
  problems, sizes, found = [], [], []
  waiting = pool.map(prepare, next(chunks))
  started = 0
  while waiting is not None:
    chunk = list(waiting)
    for item, (_, problem, _) in zip(items[started:], chunk, strict=False):
      if problem:
        _refuse(item, problem, skip_damaged)
    started += len(chunk)
    following = next(chunks, None)
    waiting = None if following is None else pool.map(prepare, following)
    problems += [problem for _, problem, _ in chunk]
    sizes += [size for _, _, size in chunk]
    if good := [x for x, _, _ in chunk if x is not None]:
      found.append((len(good), layout(good)))
  rows = [
    {name: np.asarray(y[:count], np.float32) for name, y in out.items()}
    for count, out in found
  ]
  names = rows[0] if rows else ()
  return _Part(
    {n: np.concatenate([row[n] for row in rows]) for n in names},
    problems,
    sizes,
  )


def _prepare(
  network: Network, item: image_item.Item
) -> tuple[Prepared | None, str, str]:
  """(image as the network reads it, what is wrong, size)."""
  if item.problem:
    return None, f"{item.problem} ({item.detail})", ""
  try:
    pixels = decode.decode(item.image)
  except decode.Skip as skip:
    return None, str(skip), ""
  height, width, _ = pixels.shape
  return network.prepare(pixels), "", f"{width}x{height}"


def _refuse(item: image_item.Item, problem: str, skip_damaged: bool) -> str:
  if skip_damaged:
    return f"{item.key}: {problem}"
  raise errors.DataError(
    f"image {item.key!r} cannot be read: {problem}; make it again, or leave out"
    " such images with skip_damaged."
  )


def _in_parts(
  items: Iterable[image_item.Item], size: int
) -> Iterator[list[image_item.Item]]:
  stream = iter(items)
  while part := list(itertools.islice(stream, size)):
    yield part


def _sha256(value: files.Json) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _encode(part: _Part) -> bytes:
  buffer = io.BytesIO()
  told = {"problems": np.array(part.problems), "sizes": np.array(part.sizes)}
  np.savez(buffer, **told, **{f"row_{n}": x for n, x in part.rows.items()})
  return buffer.getvalue()


def _read(path: epath.Path, count: int) -> _Part | None:
  """A part that was kept, or None where there is none, or half of one."""
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
      rows = {
        name.removeprefix("row_"): stored[name]
        for name in stored.files
        if name.startswith("row_")
      }
      problems, sizes = (stored[n].tolist() for n in ("problems", "sizes"))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  good = sum(not problem for problem in problems)
  whole = all(len(x) == good for x in rows.values())
  if len(problems) != count or len(sizes) != count or not whole:
    return None
  return _Part(rows, problems, sizes)
