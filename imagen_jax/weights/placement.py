"""Streams a checkpoint onto devices: one tensor in host memory at a time.

A network that scans over its layers has parameters stacked [layers, ...] under
`layers/`, where checkpoints have one tensor a layer. So our shapes are seen
unstacked, `layers/3/attention/query/kernel`, to plan where each comes from;
then each stacked parameter is a buffer on the device, which its layers are
written into one after the other, in place. Cast and int8 happen on the device,
too. The host never holds more than the tensor in hand.

In the same pass a fingerprint is taken of the values as they were stored.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Int

from imagen_jax.core import arrays, tree
from imagen_jax.nn import int8
from imagen_jax.weights import rules
from imagen_jax.weights import tensors as tensors_lib
from imagen_jax.weights.tensors import Tensor

# (slash name, shape) of a whole parameter -> where it shall lie; None: default.
Sharding: TypeAlias = Callable[
  [str, tuple[int, ...]], jax.sharding.Sharding | None
]

_STACK = "layers/"


class _Form(NamedTuple):
  """What a tensor becomes; parameters of one form are compiled once."""

  leaf: str  # the last part of the slash name
  dtype: np.dtype
  quantize: bool

  def convert(self, x: Array) -> dict[str, Array]:
    """The values in `dtype`, or their integers and scales."""
    if self.quantize:
      return int8.quantize_leaf(self.leaf, x)
    return {self.leaf: x.astype(self.dtype)}


def unstacked(
  shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
  """Each layer's shape by a name of its own."""
  return {
    part: shape if part == name else shape[1:]
    for name, shape in shapes.items()
    for part in _parts(name, shape)
  }


def place(
  plan: Mapping[str, rules.Planned],
  tensors: Mapping[str, Tensor],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  dtype: DTypeLike,
  weights: int8.Weights = "float",
  sharding: Sharding | None = None,
) -> tuple[arrays.Params, str]:
  """Reads every planned tensor once; returns (params, fingerprint).

  `shapes` are those of the float network, stacked. Parameters are in `dtype`;
  with int8, kernels and embeddings become integers and float32 scales.
  """
  digests: dict[str, str] = {}

  def read(part: str) -> np.ndarray:
    source, transform = plan[part]
    values = tensors[source].read()
    digests[source] = tensors_lib.digest(values)
    return transform(values)

  def tensor_size(name: str) -> int:
    return math.prod(shapes[name]) // len(_parts(name, shapes[name]))

  params: dict[str, Array] = {}
  # Large tensors first: what passes through beside them is then still absent.
  for name in sorted(shapes, key=tensor_size, reverse=True):
    quantize = weights == "int8" and int8.is_quantized(name)
    form = _Form(name.split("/")[-1], jnp.dtype(dtype), quantize)
    params |= _parameter(form, name, shapes[name], read, sharding)
  return tree.unflatten(params), tensors_lib.fingerprint(digests)


def _parts(name: str, shape: tuple[int, ...]) -> list[str]:
  """The names of a parameter's layers; its own where it has none."""
  if not name.startswith(_STACK):
    return [name]
  rest = name.removeprefix(_STACK)
  return [f"{_STACK}{i}/{rest}" for i in range(shape[0])]


def _parameter(
  form: _Form,
  name: str,
  shape: tuple[int, ...],
  read: Callable[[str], np.ndarray],
  sharding: Sharding | None,
) -> dict[str, Array]:
  """Reads, converts and places one of our parameters, by slash names."""
  folder = name.removesuffix(form.leaf)
  leaves = jax.eval_shape(
    form.convert, jax.ShapeDtypeStruct(shape, jnp.float32)
  )
  places = {
    leaf: sharding(folder + leaf, struct.shape) if sharding else None
    for leaf, struct in leaves.items()
  }
  convert, write = _programs(form, tuple(places.items()))
  first = next(iter(places.values()))  # of the values, or of their integers
  parts = _parts(name, shape)
  if parts == [name]:
    values = jax.block_until_ready(convert(_send(read(name), first)))
  else:
    values = {
      leaf: jnp.zeros(struct.shape, struct.dtype, device=places[leaf])
      for leaf, struct in leaves.items()
    }
    for index, part in enumerate(parts):
      x = _send(read(part), _of_one_layer(first))
      # Waited for: what is under way is in memory.
      values = jax.block_until_ready(write(values, x, index))
  return {folder + leaf: array for leaf, array in values.items()}


@functools.cache
def _programs(
  form: _Form, places: tuple[tuple[str, jax.sharding.Sharding | None], ...]
) -> tuple[Callable, Callable]:
  """Compiled: tensor -> parameter, and tensor -> layer of a parameter."""

  def write(
    buffers: dict[str, Array], x: Array, index: Int[Array, ""]
  ) -> dict[str, Array]:
    layer = form.convert(x)
    return {
      leaf: jax.lax.dynamic_update_index_in_dim(buffer, layer[leaf], index, 0)
      for leaf, buffer in buffers.items()
    }

  convert = jax.jit(form.convert, out_shardings=dict(places))
  return convert, jax.jit(write, donate_argnums=0, out_shardings=dict(places))


def _of_one_layer(
  place: jax.sharding.Sharding | None,
) -> jax.sharding.Sharding | None:
  """The sharding of a layer of a stacked parameter."""
  if isinstance(place, jax.sharding.NamedSharding):
    spec = jax.sharding.PartitionSpec(*place.spec[1:])
    return jax.sharding.NamedSharding(place.mesh, spec)
  return place


def _send(x: np.ndarray, place: jax.sharding.Sharding | None) -> Array:
  """A tensor on its devices."""
  if place is None:
    # Copied: the tensor may be an array that its owner will change.
    return jax.device_put(x, may_alias=False)
  # Each device is sent its part alone, on any number of hosts.
  return jax.make_array_from_callback(x.shape, place, lambda index: x[index])
