"""Our own stage files: a parameter tree as one safetensors file.

Names are slash paths of the tree (`down_0/block_1/conv/kernel`). Floating
leaves are stored in `dtype` (bfloat16 halves the download; training keeps
float32 in its checkpoints), others as they are. Metadata is any dict of
strings. A digest over names, shapes and data is stored with it and checked on
load, because safetensors themselves do not notice a flipped bit.
"""

import hashlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import DTypeLike

from imagen_jax.core import arrays as types
from imagen_jax.core import errors, files, tree
from imagen_jax.weights import readers

DIGEST = "content_sha256"


def save_params(
  path: str | os.PathLike,
  params: types.Params,
  metadata: dict[str, str],
  dtype: DTypeLike | None = jnp.bfloat16,
) -> str:
  """Writes the tree atomically; returns its digest. None keeps dtypes."""
  _check_metadata(metadata)
  flat = {
    name: _stored(leaf, dtype) for name, leaf in tree.flatten(params).items()
  }
  digest = _digest(flat)
  content = safetensors.numpy.save(flat, {**metadata, DIGEST: digest})
  files.atomic_write(os.fspath(path), content)
  return digest


def load_params(
  path: str | os.PathLike, dtype: DTypeLike | None = jnp.float32
) -> tuple[types.Params, dict[str, str]]:
  """Reads (numpy tree, metadata); floats become `dtype`, None keeps them.

  The metadata includes the digest under `content_sha256`.
  """
  checkpoint = readers.read_safetensors(path)
  expected = checkpoint.metadata.get(DIGEST)
  if expected is None:
    raise errors.CheckpointError(
      f"{os.fspath(path)} has no {DIGEST} and was not written by this"
      " program; use `imagen import` for other people's checkpoints."
    )
  found = _digest(checkpoint.arrays)
  if found != expected:
    raise errors.CheckpointError(
      f"{os.fspath(path)} is corrupt: its content has sha256 {found[:12]}...,"
      f" recorded is {expected[:12]}...; fetch it again."
    )
  flat = {
    name: np.array(_stored(leaf, dtype))
    for name, leaf in checkpoint.arrays.items()
  }
  inner = {n[:i] for n in flat for i, sign in enumerate(n) if sign == "/"}
  if both := sorted(inner & flat.keys()):
    raise errors.CheckpointError(
      f"{os.fspath(path)} has {both[0]!r} both as an array and as a group; it"
      " was not written by this program."
    )
  return tree.unflatten(flat), checkpoint.metadata


def _stored(
  leaf: jax.Array | np.ndarray, dtype: DTypeLike | None
) -> np.ndarray:
  """A contiguous host array; floats in `dtype`."""
  array = np.asarray(leaf)
  if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
    array = array.astype(dtype)
  # ascontiguousarray would turn a scalar into a vector.
  return np.ascontiguousarray(array).reshape(array.shape)


def _digest(flat: dict[str, np.ndarray]) -> str:
  """sha256 over (name, dtype, shape, bytes), in the order of the names."""
  digest = hashlib.sha256()
  for name in sorted(flat):
    array = flat[name]
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    # Viewed as bytes: hashlib does not know bfloat16.
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _check_metadata(metadata: dict) -> None:
  for key, value in metadata.items():
    if not isinstance(value, str):
      raise errors.BadInput(
        f"metadata {key!r} is {type(value).__name__}, expected str; encode"
        " other values as JSON text."
      )
  if DIGEST in metadata:
    raise errors.BadInput(f"metadata key {DIGEST!r} is reserved; rename it.")
