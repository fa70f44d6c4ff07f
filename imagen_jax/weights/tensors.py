"""A tensor of a checkpoint that is read when it is asked for.

Shape and dtype are known from the file's header; the values stay on disk. So a
whole checkpoint can be planned, checked and then read once, tensor by tensor,
with one tensor in memory at a time.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
  """What is known of a tensor, and how to read it into new memory."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


def of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
  """Arrays that are in memory already, seen as tensors."""

  def tensor(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, array.dtype, lambda: array)

  return {name: tensor(array) for name, array in arrays.items()}


def digest(values: np.ndarray) -> str:
  """dtype, shape and SHA-256 of the content, in one line."""
  integers = values.view(f"u{values.dtype.itemsize}")  # quicker to transpose
  content = np.ascontiguousarray(integers).reshape(-1).view(np.uint8)
  return f"{values.dtype.name} {values.shape} {_sha256(content)}"


def fingerprint(digests: Mapping[str, str]) -> str:
  """SHA-256 over the sorted lines "name digest" of some tensors.

  It does not depend on the container: a T5X checkpoint seen under its Hugging
  Face names, one file and many shards give the same.
  """
  lines = sorted(f"{name} {line}" for name, line in digests.items())
  return _sha256("\n".join(lines).encode())


def _sha256(content: bytes | np.ndarray) -> str:
  return hashlib.sha256(content).hexdigest()
