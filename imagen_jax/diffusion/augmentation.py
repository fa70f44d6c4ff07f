"""Noise conditioning augmentation (paper section 2.4, Fig. A.32).

  x_lr <- alpha(a) x_lr + sigma(a) eps,   a = aug_level in [0, 1]

with the cosine schedule, on the low-resolution image before it is enlarged. In
training a ~ U(0, 1) for each example; in sampling it is fixed and the noise is
drawn once. The network is told a. At a = 0 the image stays as it is, exactly.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import precision, shapes
from imagen_jax.core.arrays import Image
from imagen_jax.diffusion import process, schedules


def noise_x_lr(x_lr: Image, aug_level: Float[Array, "b"], eps: Image) -> Image:
  """x_lr with noise of aug_level in [0, 1]; 0 is none, 1 is nearly all."""
  schedules.check_unit(aug_level, "aug_level")
  x_lr, aug_level, eps = precision.at_least_float32(x_lr, aug_level, eps)
  noised = process.q_sample(x_lr, schedules.cosine_logsnr(aug_level), eps)
  return jnp.where(shapes.bcast_right(aug_level, 4) > 0.0, noised, x_lr)
