"""Halving and doubling an image without parameters, and the way up for x_lr.

BigGAN residual blocks (Appendix F.1) double by repeating pixels and halve by
averaging 2x2 squares; both are a reshape. The Efficient U-Net strides instead.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import images
from imagen_jax.core.arrays import Image


def enlarge_nearest(
  x: Image, factors: tuple[int, int] = (2, 2)
) -> Float[Array, "b h2 w2 c"]:
  """Each pixel becomes a rectangle of `factors` pixels."""
  b, h, w, c = x.shape
  y, z = factors
  pixels = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, y, w, z, c))
  return pixels.reshape(b, h * y, w * z, c)


def halve_average(x: Image) -> Float[Array, "b h2 w2 c"]:
  """Each 2x2 square becomes its mean."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def concat_low_resolution(
  z_t: Image, x_lr: Float[Array, "b h2 w2 c2"]
) -> Float[Array, "b h w c3"]:
  """[z_t, x_lr enlarged to z_t's size], on channels, in float32.

  Half-pixel centres: when z_t moves by a whole pixel of x_lr, so does the
  enlarged image, and crops agree with the full image away from their border.
  """
  enlarged = images.upsample_bilinear(x_lr, z_t.shape[1:3])
  return jnp.concatenate([z_t.astype(enlarged.dtype), enlarged], axis=-1)
