"""Where an encoder's parameters and its batches lie on several devices.

The devices form a mesh (data, tensor). A batch is split over `data`. With
`tensor_parallel` > 1 the large matrices are split over `tensor`, by columns
where they widen and by rows where they narrow (as in Megatron, arXiv:1909.08053
Section 3), so that T5-XXL fits devices of 8 GB; all else is on every device.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.core import errors
from imagen_jax.weights import placement

# [..., in, out]: split by `out`; and its int8 scales [..., out] with it.
_COLUMNS = re.compile(r".*/(query|key|value|wi|wi_0|wi_1)/kernel(_\w+)?")
# [..., in, out]: split by `in`; the scales [..., out] are on every device.
_ROWS = re.compile(r".*/(out|wo)/kernel(_int8)?")


class Layout(NamedTuple):
  """Shardings of parameters and of [b l] inputs; None on one device."""

  params: placement.Sharding | None
  batch: jax.sharding.Sharding | None
  data: int  # a batch must be divisible by it


def layout(
  devices: Sequence[jax.Device], *, tensor_parallel: int = 1
) -> Layout:
  """The layout over `devices` of one host."""
  count = len(devices)
  if tensor_parallel < 1 or count % tensor_parallel:
    raise errors.BadInput(
      f"tensor_parallel {tensor_parallel} does not divide the {count} devices"
      f" of this host; use one of"
      f" {[n for n in range(1, count + 1) if count % n == 0]}."
    )
  if count == 1:
    return Layout(None, None, 1)
  grid = np.asarray(devices).reshape(-1, tensor_parallel)
  mesh = jax.sharding.Mesh(grid, ("data", "tensor"))

  def params(name: str, shape: tuple[int, ...]) -> NamedSharding:
    return NamedSharding(mesh, _spec(name, shape, tensor_parallel))

  return Layout(params, NamedSharding(mesh, PartitionSpec("data")), len(grid))


def _spec(
  name: str, shape: tuple[int, ...], tensor_parallel: int
) -> PartitionSpec:
  """How a parameter is split over `tensor`."""
  axis = None
  if _COLUMNS.fullmatch(name):
    axis = len(shape) - 1
  elif _ROWS.fullmatch(name):
    axis = len(shape) - 2
  if axis is None or shape[axis] % tensor_parallel:
    return PartitionSpec()
  return PartitionSpec(*[None] * axis, "tensor")
