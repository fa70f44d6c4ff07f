"""T5X checkpoints for tests: the golden ones, and variants made from them."""

import pathlib
import shutil
import tarfile

import ml_dtypes
import numpy as np
import tensorstore as ts
from flax import serialization

ARCHIVE = pathlib.Path(__file__).parent / "golden" / "t5x.tar.gz"
LAYOUTS = ("f32", "f32_scanned")


def extract(folder):
  """The golden checkpoints as {layout: folder with checkpoint_0, io.npz}."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder, filter="data")
  for path in [folder / "t5x", *(folder / "t5x").rglob("*")]:
    path.chmod(0o755 if path.is_dir() else 0o644)
  return {layout: folder / "t5x" / layout for layout in LAYOUTS}


def copy(source, target):
  """A checkpoint that may be changed."""
  shutil.copytree(source, target)
  return target


def content(checkpoint):
  """The tree of the msgpack file."""
  raw = (checkpoint / "checkpoint").read_bytes()
  return serialization.msgpack_restore(raw)


def write_content(checkpoint, tree):
  raw = serialization.msgpack_serialize(tree)
  (checkpoint / "checkpoint").write_bytes(raw)


def is_spec(node):
  return isinstance(node, dict) and "kvstore" in node


def map_specs(node, function):
  """`function(spec)` in place of every array spec of the encoder."""
  if is_spec(node):
    return function(node)
  if isinstance(node, dict):
    return {
      key: child if key in ("state", "decoder") else map_specs(child, function)
      for key, child in node.items()
    }
  return node


def stored(checkpoint, spec):
  """The values of a zarr array."""
  path = str(checkpoint / spec["kvstore"]["path"])
  store = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
  return ts.open(store, open=True).result().read().result()


def restore(checkpoint, spec, values, chunks=None):
  """Writes an array anew, in values' dtype; returns its spec."""
  path = checkpoint / spec["kvstore"]["path"]
  shutil.rmtree(path)
  metadata = {
    "shape": list(values.shape),
    "chunks": list(chunks or values.shape),
    "compressor": {"id": "gzip", "level": 1},
  }
  store = {
    "driver": "zarr",
    "dtype": values.dtype.name,
    "kvstore": {"driver": "file", "path": str(path)},
    "metadata": metadata,
  }
  ts.open(store, create=True).result().write(values).result()
  return spec | {"dtype": values.dtype.name, "metadata": metadata}


def bfloat16(checkpoint, *, version):
  """Stores the encoder in bfloat16, as this version of T5X does."""
  tree = content(checkpoint)
  tree["version"] = version

  def narrow(spec):
    values = stored(checkpoint, spec).astype(ml_dtypes.bfloat16)
    if version == 2:
      values = values.view(np.uint16)
    return restore(checkpoint, spec, values)

  write_content(checkpoint, map_specs(tree, narrow))


def inline(checkpoint, *, everything=True):
  """Moves arrays (or vectors alone) of the encoder into the msgpack file."""

  def move(spec):
    values = stored(checkpoint, spec)
    if values.ndim > 1 and not everything:
      return spec
    shutil.rmtree(checkpoint / spec["kvstore"]["path"])
    return values

  write_content(checkpoint, map_specs(content(checkpoint), move))
