"""Thresholding of the predicted x0 (paper section 2.3, Fig. A.31).

  static    clip(x0, -1, 1)
  dynamic   s = max(1, percentile of |x0| over h, w and c), for each example;
            clip(x0, -s, s) / s

The sampler applies it at every step to the guided x0. The percentile is that of
`jnp.percentile` with linear interpolation, found exactly by bisecting the bits
of the values, without a sort: sixteen times faster at 256x256 on a CPU.
"""

import functools
import math
from typing import Literal, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Image

Threshold = Literal["none", "static", "dynamic"]


@runtime_checkable
class ThresholdFn(Protocol):
  """x0 -> x0, for each example by itself."""

  def __call__(self, x0: Image) -> Image: ...


def none(x0: Image) -> Image:
  """x0 as it is, in float32 or better."""
  return precision.at_least_float32(x0)[0]


def static(x0: Image) -> Image:
  """clip(x0, -1, 1)."""
  return jnp.clip(none(x0), -1.0, 1.0)


def check_percentile(percentile: float) -> None:
  """Raises BadInput unless 0 < percentile <= 100."""
  if not 0.0 < percentile <= 100.0:
    raise errors.BadInput(
      f"percentile is {percentile}; it must be in (0, 100], as 99.5."
    )


def _ranked_bits(bits: jax.Array, rank: int, width: int) -> jax.Array:
  """Of each row of non-negative integers, the one with `rank` before it."""

  def try_bit(index: jax.Array, found: jax.Array) -> jax.Array:
    bit = jnp.left_shift(jnp.ones((), bits.dtype), width - 1 - index)
    candidate = found | bit.astype(bits.dtype)
    before = jnp.sum(bits < candidate[:, None], axis=1, dtype=jnp.int32)
    return jnp.where(before <= rank, candidate, found)

  start = jnp.zeros(bits.shape[:1], bits.dtype)
  return jax.lax.fori_loop(0, width, try_bit, start)


def magnitude_percentile(
  x: Float[Array, "b n"], percentile: float
) -> Float[Array, "b"]:
  """The percentile of |x| in each row, interpolated linearly; exact."""
  check_percentile(percentile)
  (x,) = precision.at_least_float32(x)
  position = percentile / 100.0 * (x.shape[1] - 1)
  rank = math.floor(position)
  magnitude = jnp.abs(x)
  # The bits of non-negative floats are ordered as the floats are.
  wide = x.dtype == jnp.float64
  bits = jax.lax.bitcast_convert_type(
    jax.lax.stop_gradient(magnitude), jnp.int64 if wide else jnp.int32
  )
  found = _ranked_bits(bits, rank, 63 if wide else 31)[:, None]
  low = jnp.max(jnp.where(bits <= found, magnitude, 0.0), axis=1)
  if position == rank:
    return low
  above = jnp.min(jnp.where(bits > found, magnitude, jnp.inf), axis=1)
  count = jnp.sum(bits <= found, axis=1, dtype=jnp.int32)
  high = jnp.where(count > rank + 1, low, above)
  return low + (high - low) * (position - rank)


def dynamic(
  x0: Image, percentile: float = 99.5, *, max_scale: float | None = None
) -> Image:
  """clip(x0, -s, s) / s, with s >= 1 and at most `max_scale` if given."""
  if max_scale is not None and not max_scale >= 1.0:
    raise errors.BadInput(f"max_scale is {max_scale}; it must be at least 1.")
  x0 = none(x0)
  scale = magnitude_percentile(x0.reshape(x0.shape[0], -1), percentile)
  scale = jnp.clip(scale, 1.0, max_scale)
  scale = shapes.bcast_right(scale, x0.ndim)
  return jnp.clip(x0, -scale, scale) / scale


def by_name(
  name: str, *, percentile: float = 99.5, max_scale: float | None = None
) -> ThresholdFn:
  """The function of a `Threshold`; the options are those of `dynamic`."""
  if name == "none":
    return none
  if name == "static":
    return static
  if name == "dynamic":
    check_percentile(percentile)
    return functools.partial(
      dynamic, percentile=percentile, max_scale=max_scale
    )
  names = ", ".join(get_args(Threshold))
  raise errors.BadInput(f"threshold {name!r} is unknown; use one of {names}.")
