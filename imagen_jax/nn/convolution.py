"""Two-dimensional convolution, channels last, padding SAME.

  y[b, i, j, o] = sum_{p, q, c} x[b, s i + p - p0, s j + q - q0, c]
                  kernel[p, q, c, o]  (+ bias[o]),

with zeros outside the image, s the stride and (p0, q0) the padding before.
x [b h w ci], kernel [kh kw ci co] -> y [b ceil(h/s) ceil(w/s) co].

Parameters have the names and shapes of `flax.linen.Conv`.

A 1x1 kernel without stride is written as the matrix product that it is. XLA
makes one of it by itself on TPU and GPU; on CPU its weight gradient, left a
convolution whose window is the whole image, would take twice as long.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Image
from imagen_jax.nn import initializers

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(
  x: Image,
  kernel: Float[Array, "kh kw c co"],
  *,
  strides: tuple[int, int] = (1, 1),
) -> Float[Array, "b oh ow co"]:
  """y = x * kernel, padding SAME, in the common dtype of the two."""
  if kernel.shape[:2] == (1, 1) and tuple(strides) == (1, 1):
    return jnp.einsum("bhwc,co->bhwo", x, kernel[0, 0])
  return lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=_LAYOUT
  )


class Conv(nn.Module):
  """`conv` and its parameters: `kernel` [kh kw ci co], `bias` [co]."""

  features: int  # co
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32  # of the computation; parameters are float32
  kernel_init: initializers.Initializer = initializers.default

  @nn.compact
  def __call__(self, x: Image) -> Float[Array, "b oh ow {self.features}"]:
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    y = conv(
      x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides
    )
    if not self.use_bias:
      return y
    bias = self.param("bias", initializers.zeros, (self.features,))
    return y + bias.astype(self.dtype)[None, None, None]
