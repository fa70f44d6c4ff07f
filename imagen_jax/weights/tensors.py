"""A tensor of a checkpoint that is read when it is asked for.

Shape and dtype are known from the file's header; the values stay on disk. So a
whole checkpoint can be planned, checked and then read once, tensor by tensor,
with one tensor in memory at a time.
"""

import dataclasses
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
