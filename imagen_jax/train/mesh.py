"""The grid of devices that a run is spread over.

  axis      splits                                  talks
  data      the batch                               gradients, once a step
  fsdp      the batch, and every large parameter    parameters, at every use
  spatial   the rows of pixels                      the edges of convolutions
  tensor    the channels inside a block             activations, twice a block

The last axes are the nearest neighbours, as their talk waits for no one. Slices
of a multi-slice TPU, joined by a slower network, are cut along `data` alone.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from imagen_jax.core import errors

AXES = ("data", "fsdp", "spatial", "tensor")
BATCH = ("data", "fsdp")  # the axes that split a batch


@dataclasses.dataclass(frozen=True)
class MeshSizes:
  """Devices along each axis; one of them may be -1, for all that are left."""

  data: int = -1
  fsdp: int = 1
  spatial: int = 1
  tensor: int = 1
  slices: int = 1  # of `data`, joined by the data centre's network

  @property
  def shape(self) -> tuple[int, ...]:
    """In the order of `AXES`."""
    return tuple(getattr(self, axis) for axis in AXES)


def fill(sizes: MeshSizes, devices: int) -> MeshSizes:
  """The sizes with -1 filled in; BadInput if they do not make `devices`."""
  free = [axis for axis in AXES if getattr(sizes, axis) == -1]
  known = math.prod(size for size in sizes.shape if size != -1)
  wrong = any(size < 1 and size != -1 for size in sizes.shape)
  if wrong or len(free) > 1 or sizes.slices < 1:
    raise errors.BadInput(
      f"mesh {_text(sizes)} has no meaning; sizes are 1 or more, one of them"
      " may be -1, for all devices that are left."
    )
  if devices % known or (not free and known != devices):
    raise errors.BadInput(
      f"mesh {_text(sizes)} needs {'a multiple of ' if free else ''}{known}"
      f" devices, and there are {devices}; change mesh.data or mesh.fsdp."
    )
  filled = dataclasses.replace(sizes, **dict.fromkeys(free, devices // known))
  if filled.data % sizes.slices:
    raise errors.BadInput(
      f"mesh.data {filled.data} is not divisible by mesh.slices"
      f" {sizes.slices}; slices are cut along data."
    )
  return filled


def make(
  sizes: MeshSizes = MeshSizes(),
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The mesh of the given devices, by default all there are.

  On a TPU neighbours in the mesh are neighbours on the chip's network.
  """
  devices = jax.devices() if devices is None else devices
  sizes = fill(sizes, len(devices))
  return Mesh(_grid(sizes, devices), AXES, axis_types=(AxisType.Auto,) * 4)


def batch_parts(mesh: Mesh) -> int:
  """How many parts a batch is cut into."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def describe(mesh: Mesh) -> str:
  """As in "data 4, fsdp 64: 256 x TPU v5 lite"."""
  sizes = [f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1]
  kind = mesh.devices.flat[0].device_kind
  return f"{', '.join(sizes) or 'one device'}: {mesh.size} x {kind}"


def _grid(sizes: MeshSizes, devices: Sequence[jax.Device]) -> np.ndarray:
  if sizes.slices == 1:
    return mesh_utils.create_device_mesh(
      sizes.shape, devices, allow_split_physical_axes=True
    )
  inside = (sizes.data // sizes.slices, *sizes.shape[1:])
  return mesh_utils.create_hybrid_device_mesh(
    inside,
    (sizes.slices, 1, 1, 1),
    devices,
    allow_split_physical_axes=True,
  )


def _text(sizes: MeshSizes) -> str:
  return ", ".join(f"{axis} {getattr(sizes, axis)}" for axis in AXES)
