"""Weight-only int8: symmetric, one scale for each output.

  kernel [in out]:        scale[o] = max_i |W[i, o]| / 127
  embedding [rows d]:     scale[r] = max_d |E[r, d]| / 127
  W = scale * round(W / scale),  integers in -127..127

The integers stay int8 in memory and are widened where they are used, which is
exact in bfloat16; since a scale belongs to an output, it multiplies the result
of the matrix product, not the matrix. Norms and bias tables stay as they are:
they are small, and a name that is not `kernel` or `embedding` is not touched.
"""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Int8

from imagen_jax.core import arrays, tree
from imagen_jax.nn import initializers

Weights: TypeAlias = Literal["float", "int8"]

# By the last part of a name: the axis that a scale is taken over.
_REDUCED = {"kernel": -2, "embedding": -1}
_LIMIT = 127
_PRECISION = jax.lax.Precision.HIGHEST


def is_quantized(name: str) -> bool:
  """Whether `quantize` stores the parameter of this slash name in int8."""
  return name.split("/")[-1] in _REDUCED


def quantize_leaf(
  name: str, x: Float[Array, "*any"]
) -> dict[str, Int8[Array, "*any"] | Float[Array, "*scale"]]:
  """The integers and scales of one parameter, by their new names."""
  axis = _REDUCED[name.split("/")[-1]]
  # The largest in x's own dtype is exact, and leaves x wide in one place only:
  # the compiler then need not hold a wide copy.
  largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
  largest = largest.astype(jnp.promote_types(x.dtype, jnp.float32))
  # An output that is zero throughout has no scale of its own.
  scale = jnp.where(largest > 0, largest, 1.0) / _LIMIT
  integers = jnp.round(x / scale).astype(jnp.int8)
  return {
    f"{name}_int8": integers,
    f"{name}_scale": jnp.squeeze(scale, axis),
  }


def quantize(params: arrays.Params) -> arrays.Params:
  """A float tree -> the tree of the same network with weights="int8"."""
  result = {}
  for name, leaf in tree.flatten(params).items():
    result |= quantize_leaf(name, leaf) if is_quantized(name) else {name: leaf}
  return tree.unflatten(result)


class Dense(nn.Module):
  """y = x W, without bias."""

  features: int
  weights: Weights = "float"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b f"]:
    shape = (x.shape[-1], self.features)
    x = x.astype(self.dtype)
    if self.weights == "float":
      init = nn.initializers.lecun_normal()
      kernel = self.param("kernel", init, shape).astype(self.dtype)
      return jnp.matmul(x, kernel, precision=_PRECISION)
    kernel = self.param("kernel_int8", initializers.zeros, shape, jnp.int8)
    scale = self.param("kernel_scale", initializers.ones, shape[1:])
    y = jnp.matmul(x, kernel.astype(self.dtype), precision=_PRECISION)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return (y * scale).astype(self.dtype)


class Embed(nn.Module):
  """The rows of a table. An id outside it gives NaN, not another word."""

  rows: int
  features: int
  weights: Weights = "float"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
    shape = (self.rows, self.features)
    if self.weights == "float":
      table = self.param("embedding", nn.initializers.normal(1.0), shape)
      return _take(table, ids).astype(self.dtype)
    table = self.param("embedding_int8", initializers.zeros, shape, jnp.int8)
    scale = self.param("embedding_scale", initializers.ones, shape[:1])
    # The scale of an id outside is NaN, which int8 itself cannot be.
    rows = jnp.take(table, ids, axis=0, mode="clip").astype(scale.dtype)
    return (rows * _take(scale, ids)[:, :, None]).astype(self.dtype)


def _take(
  table: Float[Array, "rows *d"], ids: Int[Array, "b l"]
) -> Float[Array, "b l *d"]:
  # A negative id would count from the end: it is sent beyond it.
  ids = jnp.where(ids < 0, table.shape[0], ids)
  return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)
