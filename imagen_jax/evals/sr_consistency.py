"""Is what super-resolution draws still the image it was given?

A measure for `sample_grid`: x_lr, enlarged by the stage, is made small again.

  difference = downscale(SR(x_lr)) - x_lr
  sr/psnr          of it, mean over images, in dB
  sr/drift_red ..  its mean over images and pixels, in levels of 255: a cast
  sr/drift         mean over images of the size of their own casts

Colour drift is the known fault of super-resolution stages, and hides from the
training loss. The true image does not reach an infinite PSNR either, where its
x_lr was made by another filter than this downscaling.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import images
from imagen_jax.core.arrays import Cond, Image

_LEVELS = 127.5  # of 255, for 1 in [-1, 1]
_PEAK = 2.0  # from -1 to 1


class Difference(NamedTuple):
  """Of small images to those they should be."""

  psnr: Float[Array, ""]  # dB
  drift: Float[Array, "c"]  # levels, with sign
  drift_size: Float[Array, ""]  # levels, of each image and channel by itself


def measure(x0: Image, cond: Cond) -> dict[str, float]:
  """The numbers of images x0 that were drawn from `cond`, for a row."""
  found = jax.device_get(difference(x0, cond["x_lr"]))
  red, green, blue = (float(x) for x in found.drift)
  return {
    "sr/psnr": float(found.psnr),
    "sr/drift": float(found.drift_size),
    "sr/drift_red": red,
    "sr/drift_green": green,
    "sr/drift_blue": blue,
  }


@jax.jit
def difference(x0: Image, x_lr: Float[Array, "b p q c"]) -> Difference:
  """Of x0 made as small as x_lr, to x_lr."""
  small = images.resize_antialias(x0, (x_lr.shape[1], x_lr.shape[2]))
  apart = small - x_lr
  mse = jnp.maximum(jnp.square(apart).mean(axis=(1, 2, 3)), 1e-10)
  cast = _LEVELS * apart.mean(axis=(1, 2))
  return Difference(
    psnr=(10 * jnp.log10(_PEAK**2 / mse)).mean(),
    drift=cast.mean(axis=0),
    drift_size=jnp.abs(cast).mean(),
  )
