"""torch.save and TorchScript archives as data, without torch.

Such a file is a zip archive: a pickle, ROOT/data.pkl, says what is in it, and
each storage of numbers lies beside it as raw bytes, ROOT/data/0 and so on. A
pickle may name any function to be called. Here it may name these alone:

  OrderedDict              a plain dictionary
  torch._utils._rebuild_*  a view of a storage: dtype, offset, shape, strides
  torch.*Storage           the dtype of a storage
  __torch__.*              a TorchScript module: a bag of attributes
  torch.jit._pickle.*      a list of numbers

and whatever else it names is refused, as is all that does not fit its bytes.
Tensors are read when they are asked for, one at a time; their names are the
keys on the way to them, joined by dots.
"""

import collections
import functools
import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from imagen_jax.core import errors
from imagen_jax.weights.tensors import Tensor

DTYPES = {
  "DoubleStorage": np.dtype(np.float64),
  "FloatStorage": np.dtype(np.float32),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}
# That of a network of 5e9 parameters takes 1 MB.
_MAX_PICKLE = 1 << 26
_MAX_NAMES = 200_000
_MAX_DEPTH = 50


class _Refused(Exception):
  """What is wrong with a file, without its name."""


class _Storage(NamedTuple):
  """Some numbers of the archive: ROOT/data/KEY."""

  dtype: np.dtype
  key: str
  count: int


class _View(NamedTuple):
  """A tensor: where its numbers lie in a storage, counted in numbers."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def open_torch(path: str | os.PathLike) -> dict[str, Tensor]:
  """The tensors of an archive, each read when it is asked for.

  CheckpointError for a file that is damaged, not such an archive, or one whose
  pickle names anything but tensors.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise errors.BadInput(
      f"{path} does not exist; give the path of an existing file."
    )
  try:
    with zipfile.ZipFile(path) as archive:
      root = _root(archive)
      content = _unpickle(_record(archive, f"{root}/data.pkl", _MAX_PICKLE))
      views = dict(_named(content))
      for view in views.values():
        _check(archive, root, view)
  except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
    raise errors.CheckpointError(
      f"{path} is not a zip archive as torch.save writes, or is damaged"
      f" ({_line(error)}); fetch it again, or save it with torch >= 1.6."
    ) from error
  except _Refused as error:
    raise errors.CheckpointError(
      f"{path} was not read: {error}; convert it to safetensors, or fetch it"
      " again."
    ) from error
  if not views:
    raise errors.CheckpointError(f"{path} holds no tensors.")
  return {
    name: Tensor(
      view.shape,
      view.storage.dtype,
      functools.partial(_read, path, f"{root}/data/{view.storage.key}", view),
    )
    for name, view in views.items()
  }


def _root(archive: zipfile.ZipFile) -> str:
  """The one folder of the archive."""
  roots = [n[:-9] for n in archive.namelist() if n.endswith("/data.pkl")]
  roots = [root for root in roots if "/" not in root]
  if len(roots) != 1:
    raise _Refused(f"it has {len(roots)} files ROOT/data.pkl, expected one")
  order = f"{roots[0]}/byteorder"
  if order in archive.namelist():
    found = _record(archive, order, 16)
    if found != b"little":
      raise _Refused(f"its byte order is {found!r}, expected b'little'")
  return roots[0]


def _record(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
  size = archive.getinfo(name).file_size
  if size > limit:
    raise _Refused(f"{name} has {size:,} bytes, at most {limit:,} are read")
  return archive.read(name)


def _unpickle(data: bytes) -> object:
  """What the pickle says, in dictionaries, lists, modules and views."""

  try:
    return _make_unpickler(io.BytesIO(data)).load()
  except _Refused:
    raise
  # A damaged pickle leads to any exception, a hostile one to these, too.
  except Exception as error:
    raise _Refused(f"its pickle is damaged ({_line(error)})") from error


def _make_unpickler(file) -> pickle.Unpickler:
  """An unpickler with stand-ins of its own, which a file may as well spoil."""

  class Module(dict):
    """Of TorchScript: made empty, then given a dictionary of attributes."""

    __slots__ = ()

    def __setstate__(self, state):
      if not isinstance(state, dict):
        raise _Refused("a module's state is not a dictionary")
      self.update(state)

  def rebuild(storage, offset, shape, strides, *_):
    if not isinstance(storage, _Storage):
      raise _Refused("a tensor has no storage")
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if any(type(n) is not int or n < 0 for n in numbers):
      raise _Refused(f"a tensor's sizes are {numbers}")
    return _View(storage, offset, shape, strides)

  known = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild,
    ("torch._utils", "_rebuild_tensor"): rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
  }
  for kind in ("int", "double", "bool", "tensor"):
    known["torch.jit._pickle", f"build_{kind}list"] = lambda x: list(x)

  class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
      if module == "torch" and name in DTYPES:
        return DTYPES[name]
      if module.split(".")[0] == "__torch__":
        return Module
      if (module, name) not in known:
        raise _Refused(f"its pickle names {module}.{name}, which may run code")
      return known[module, name]

    def persistent_load(self, pid):
      if not (
        isinstance(pid, tuple)
        and len(pid) == 5
        and pid[0] == "storage"
        and isinstance(pid[1], np.dtype)
        and isinstance(pid[2], str)
        and type(pid[4]) is int
      ):
        raise _Refused(f"a storage is {str(pid)[:60]!r}")
      return _Storage(pid[1], pid[2], pid[4])

  return Unpickler(file, encoding="utf-8")


def _named(content: object) -> Iterator[tuple[str, _View]]:
  """The views in nested dictionaries and lists, by the keys joined."""
  stack: list[tuple[tuple[str, ...], object]] = [((), content)]
  seen = 0
  while stack:
    keys, value = stack.pop()
    seen += 1
    # What holds itself, or the same thing over and over.
    if seen > _MAX_NAMES or len(keys) > _MAX_DEPTH:
      raise _Refused("it nests too deeply")
    if isinstance(value, _View):
      yield ".".join(keys), value
    elif isinstance(value, dict):
      stack += [((*keys, str(k)), v) for k, v in reversed(value.items())]
    elif isinstance(value, list | tuple):
      items = reversed(list(enumerate(value)))
      stack += [((*keys, str(i)), v) for i, v in items]


def _check(archive: zipfile.ZipFile, root: str, view: _View) -> None:
  """Refuses a view that reaches out of its storage, or counts it twice."""
  name = f"{root}/data/{view.storage.key}"
  try:
    size = archive.getinfo(name).file_size
  except KeyError:
    raise _Refused(f"{name} is missing") from None
  count, itemsize = view.storage.count, view.storage.dtype.itemsize
  if count * itemsize != size:
    raise _Refused(f"{name} has {size:,} bytes, expected {count} x {itemsize}")
  if len(view.shape) != len(view.strides):
    raise _Refused(f"{name}: {len(view.shape)} sizes, other strides")
  if math.prod(view.shape) == 0:
    return
  steps = zip(view.shape, view.strides, strict=True)
  last = view.offset + sum((n - 1) * stride for n, stride in steps)
  if last >= count or math.prod(view.shape) > count:
    raise _Refused(
      f"a tensor of shape {view.shape} does not fit the {count} numbers of"
      f" {name}"
    )


def _read(path: str, name: str, view: _View) -> np.ndarray:
  """One tensor, in memory of its own."""
  try:
    with zipfile.ZipFile(path) as archive:
      flat = np.frombuffer(archive.read(name), view.storage.dtype)
  except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
    raise errors.CheckpointError(
      f"{path}: {name} is damaged ({_line(error)}); fetch it again."
    ) from error
  strides = tuple(stride * flat.itemsize for stride in view.strides)
  start = flat[view.offset :]
  return np.lib.stride_tricks.as_strided(start, view.shape, strides).copy()


def _line(error: Exception) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
