"""Normalisation with float32 statistics: GroupNorm and LayerNorm.

GroupNorm(x)[b, :, :, c] = x * a[b, c] + o[b, c], where a and o hold the group's
mean and variance, the learned scale and bias, and the modulation
y * (1 + scale) + shift that conditions a block on its embedding (the paper's
use_scale_shift_norm). One pass over x collects sum and sum of squares by
channel; groups are then formed on [b, c] alone; a second pass is one multiply
and one add, which fuses with the swish after it.

For the gradient, `affine_swish` keeps x, a and o only. With y = a x + o,
s = sigmoid(y) and g the gradient of y s,

  d y = g s (1 + y (1 - s)),   d x = a d y,   d a = sum x d y,   d o = sum d y.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Image
from imagen_jax.nn import activations, initializers


def num_groups(channels: int, *, at_most: int = 32) -> int:
  """The largest divisor of `channels` that is not above `at_most`."""
  return max(n for n in range(1, at_most + 1) if channels % n == 0)


def group_statistics(
  x: Image, groups: int
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
  """Mean and variance of each channel's group, float32 or better."""
  b, h, w, c = x.shape
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))

  def group_mean(sums: Float[Array, "b c"]) -> Float[Array, "b c"]:
    by_group = sums.reshape(b, groups, c // groups).sum(axis=-1)
    return jnp.repeat(by_group / (h * w * c // groups), c // groups, axis=-1)

  mean = group_mean(wide.sum(axis=(1, 2)))
  mean_of_squares = group_mean(jnp.square(wide).sum(axis=(1, 2)))
  return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def affine_swish(
  x: Image,
  factor: Float[Array, "b c"],
  offset: Float[Array, "b c"],
  dtype: DTypeLike,
) -> Image:
  """swish(factor * x + offset), computed in factor's dtype."""
  y = x.astype(factor.dtype) * factor[:, None, None] + offset[:, None, None]
  return nn.swish(y).astype(dtype)


def _affine_swish_forward(
  x: Image,
  factor: Float[Array, "b c"],
  offset: Float[Array, "b c"],
  dtype: DTypeLike,
) -> tuple[Image, tuple]:
  return affine_swish(x, factor, offset, dtype), (x, factor, offset)


def _affine_swish_backward(
  dtype: DTypeLike, kept: tuple, gradient: Image
) -> tuple[Image, Float[Array, "b c"], Float[Array, "b c"]]:
  del dtype
  # Keeps the compiler from finding, and storing, y and s of the forward pass.
  (x, factor, offset), gradient = jax.lax.optimization_barrier((kept, gradient))
  wide = x.astype(factor.dtype)
  y = wide * factor[:, None, None] + offset[:, None, None]
  s = nn.sigmoid(y)
  d_y = gradient.astype(factor.dtype) * s * (1 + y * (1 - s))
  d_x = (d_y * factor[:, None, None]).astype(x.dtype)
  return d_x, (d_y * wide).sum(axis=(1, 2)), d_y.sum(axis=(1, 2))


affine_swish.defvjp(_affine_swish_forward, _affine_swish_backward)


class GroupNorm(nn.Module):
  """GroupNorm, optionally modulated and then activated, in `dtype`."""

  activation: activations.Activation | None = None
  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32  # of the result; statistics are float32

  @nn.compact
  def __call__(
    self, x: Image, scale_shift: Float[Array, "b c2"] | None = None
  ) -> Image:
    channels = x.shape[-1]
    scale = self.param("scale", initializers.ones, (channels,))
    bias = self.param("bias", initializers.zeros, (channels,))
    mean, variance = group_statistics(x, num_groups(channels))
    factor = jax.lax.rsqrt(variance + self.epsilon) * scale[None]
    offset = bias[None] - mean * factor
    if scale_shift is not None:
      wide = scale_shift.astype(factor.dtype)
      modulation, shift = jnp.split(wide, 2, axis=-1)
      factor = factor * (1 + modulation)
      offset = offset * (1 + modulation) + shift
    if self.activation == "swish":
      return affine_swish(x, factor, offset, jnp.dtype(self.dtype))
    y = x.astype(factor.dtype) * factor[:, None, None] + offset[:, None, None]
    if self.activation is not None:
      y = activations.apply(self.activation, y)
    return y.astype(self.dtype)


class LayerNorm(nn.Module):
  """LayerNorm over the last axis, in float32; the result in `dtype`."""

  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32  # of the result

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    width = x.shape[-1]
    scale = self.param("scale", initializers.ones, (width,))
    bias = self.param("bias", initializers.zeros, (width,))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + self.epsilon)
    scale, bias = (
      p.reshape((1,) * (x.ndim - 1) + (width,)) for p in (scale, bias)
    )
    return (y * scale + bias).astype(self.dtype)
