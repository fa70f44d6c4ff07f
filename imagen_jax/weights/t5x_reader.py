"""T5X checkpoint directories -> flat {slash name: tensor}, read when used.

`checkpoint_<step>/` holds a msgpack file `checkpoint` with the tree {version,
optimizer: {state, target}}; a leaf is an array, or a TensorStore spec of one
that lies beside it as a zarr directory. Local paths and gs:// are read, both by
TensorStore; neither T5X nor TensorFlow is needed.

  version 3   bfloat16 as it is
  version 2   bfloat16 as its bits, in uint16

Where the layers were scanned, one array [a layers ...] holds them all. It is
shown as the layers one by one, under the names that unscanned ones have. Its
chunks span layers, so a run of them is read at once and kept while it is used.

A chunk that is missing would silently read as zeros; it is an error here, like
everything that is torn or does not agree with the msgpack file.
"""

import functools
import itertools
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tensorstore as ts
from flax import serialization

from imagen_jax.core import errors
from imagen_jax.weights.tensors import Tensor

Index: TypeAlias = tuple[slice, ...]  # () is all of an array

VERSIONS = (2, 3)
_FILE = "checkpoint"
_SCANNED = re.compile(r"target/encoder/encoder/(.+)")
_RUN_BYTES = 256 << 20  # of layers that are read at once
# What msgpack, flax's array codec and TensorStore raise on damaged content.
_DAMAGE = (
  *(ValueError, TypeError, KeyError, AttributeError, OSError),
  *(SyntaxError, OverflowError, RecursionError),  # of a dtype or a size
)


def read(source: str | os.PathLike) -> dict[str, Tensor]:
  """All arrays of a checkpoint: `target/...`, `state/...`, layers apart."""
  source = os.fspath(source)
  root = kvstore(source)
  content = _read_msgpack(source, root)
  version = content.get("version", 0)
  if not isinstance(version, int) or version not in VERSIONS:
    raise errors.CheckpointError(
      f"{source} is a T5X checkpoint of version {version!r}; versions"
      f" {VERSIONS[0]} and {VERSIONS[1]} are read; save it with a newer T5X."
    )
  tensors: dict[str, Tensor] = {}
  for name, leaf in _leaves(content.get("optimizer"), ""):
    if isinstance(leaf, dict):
      array = _zarr(f"{source}: {name}", root, leaf)
    else:
      array = _inline(np.asarray(leaf))
    if version == 2 and array.dtype == np.uint16:
      array = _as_bfloat16(array)
    scanned = _SCANNED.fullmatch(name)
    if scanned:
      if len(array.shape) < 2 or 0 in array.shape:
        raise _damaged(f"{source}: {name}", f"{array.shape} holds no layers")
      tensors |= _layers(array, scanned[1])
    else:
      read_all = functools.partial(array.read, ())
      tensors[name] = Tensor(array.shape, array.dtype, read_all)
  return tensors


def kvstore(source: str) -> dict[str, str]:
  """TensorStore's spec of a directory, local or gs://."""
  if not source.startswith("gs://"):
    return {"driver": "file", "path": os.path.abspath(source) + "/"}
  bucket, _, path = source.removeprefix("gs://").partition("/")
  return {"driver": "gcs", "bucket": bucket, "path": path.rstrip("/") + "/"}


class _Array(NamedTuple):
  """An array of the checkpoint, of which parts can be read."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[Index], np.ndarray]


def _read_msgpack(source: str, root: dict[str, str]) -> dict:
  path = posixpath.join(source, _FILE)
  try:
    found = ts.KvStore.open(root).result().read(_FILE).result()
  except _DAMAGE as error:
    raise _damaged(path, error) from error
  if found.state == "missing":
    raise errors.BadInput(
      f"{path} does not exist; give a T5X directory, checkpoint_<step>."
    )
  try:
    content = serialization.msgpack_restore(found.value)
  except _DAMAGE as error:
    raise _damaged(path, error) from error
  if not isinstance(content, dict):
    raise _damaged(path, "it does not hold a tree")
  return content


def _leaves(node: object, path: str) -> Iterator[tuple[str, object]]:
  """Arrays and TensorStore specs with slash names; other leaves are no data."""
  if isinstance(node, np.ndarray | np.generic):
    yield path, node
  elif isinstance(node, dict):
    if {"driver", "kvstore"} <= node.keys():
      yield path, node
      return
    for key, child in node.items():
      yield from _leaves(child, f"{path}/{key}" if path else str(key))


def _inline(values: np.ndarray) -> _Array:
  return _Array(values.shape, values.dtype, lambda index: values[index])


def _as_bfloat16(array: _Array) -> _Array:
  dtype = np.dtype(ml_dtypes.bfloat16)
  return _Array(array.shape, dtype, lambda index: array.read(index).view(dtype))


def _zarr(what: str, root: dict[str, str], spec: dict) -> _Array:
  """An array in a zarr directory; the spec is not opened before it is read."""
  try:
    driver, store = spec["driver"], spec["kvstore"]
    # TensorStore before 0.1.14 had the path beside the store.
    path = store["path"] if "path" in store else spec["path"]
    shape = tuple(int(size) for size in spec["metadata"]["shape"])
    dtype = jnp.dtype(spec["dtype"])
  except _DAMAGE as error:
    raise _damaged(what, f"unknown array spec {spec}") from error
  # The bucket in a spec is a placeholder, and the path is relative: the arrays
  # lie beside the msgpack file, wherever that is now.
  inside = isinstance(path, str) and not path.startswith("/")
  if driver != "zarr" or not inside or ".." in path.split("/"):
    raise _damaged(what, f"unknown array spec {spec}")
  place = root | {"path": f"{root['path']}{path.rstrip('/')}/"}
  return _Array(
    shape, dtype, functools.partial(_read_zarr, place, shape, dtype)
  )


def _read_zarr(
  place: dict[str, str], shape: tuple[int, ...], dtype: np.dtype, index: Index
) -> np.ndarray:
  """Part of a zarr array whose chunks are all there."""
  spec = {"driver": "zarr", "kvstore": place}
  path = place["path"].rstrip("/")
  try:
    array = ts.open(spec, open=True, read=True).result()
    _check_chunks(array)
    values = array[index].read().result()
  except _DAMAGE as error:
    raise _damaged(path, error) from error
  found = array.dtype.numpy_dtype
  if (array.shape, found) != (shape, dtype):
    raise _damaged(
      path, f"it is {array.shape} {found}, the msgpack file has {shape} {dtype}"
    )
  return values


def _check_chunks(array: ts.TensorStore) -> None:
  """Raises ValueError where a chunk of an array has no file."""
  counts = [
    -(-size // chunk)
    for size, chunk in zip(
      array.shape, array.chunk_layout.read_chunk.shape, strict=True
    )
  ]
  separator = array.spec().to_json()["metadata"]["dimension_separator"]
  present = {key.decode() for key in array.kvstore.list().result()}
  for chunk in itertools.product(*map(range, counts)):
    name = separator.join(map(str, chunk)) or "0"
    if name not in present:
      raise ValueError(f"chunk {name} is missing")


def _layers(array: _Array, name: str) -> dict[str, Tensor]:
  """The layers [a layers ...] of a scanned array, under unscanned names."""
  a, count, *rest = array.shape
  reader = _LayerReader(array)
  return {
    f"target/encoder/layers_{i}/{name}": Tensor(
      (a, *rest), array.dtype, functools.partial(reader.read, i)
    )
    for i in range(count)
  }


class _LayerReader:
  """Reads layers in runs, and forgets a run with its last layer."""

  def __init__(self, array: _Array):
    self._array = array
    layer_bytes = (
      math.prod(array.shape) // array.shape[1] * array.dtype.itemsize
    )
    self._length = max(1, _RUN_BYTES // layer_bytes)
    self._begin, self._run = -1, None

  def read(self, layer: int) -> np.ndarray:
    """Layer `layer`; each run is read once if they are asked for in order."""
    begin = layer - layer % self._length
    end = min(begin + self._length, self._array.shape[1])
    if self._run is None or self._begin != begin:
      self._run = None  # before the next is read
      self._run = self._array.read((slice(None), slice(begin, end)))
      self._begin = begin
    values = self._run[:, layer - begin]
    if layer == end - 1:
      self._run = None
    return values


def _damaged(what: str, why: object) -> errors.CheckpointError:
  # TensorStore adds its whole specification to what went wrong.
  reason = " ".join(str(why).split()).split(" [tensorstore_spec")[0]
  return errors.CheckpointError(
    f"{what} is corrupt, incomplete or out of reach: {reason}; fetch it again."
  )
