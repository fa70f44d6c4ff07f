"""Is what super-resolution draws still the image it was given?

An evaluator for the loop. x_lr is enlarged by the stage, and made small again:

  difference = downscale(SR(x_lr)) - x_lr
  sr/psnr          of it, mean over images, in dB
  sr/drift_red ..  its mean over images and pixels, in levels of 255: a cast
  sr/drift         mean over images of the size of their own casts

Colour drift is the known fault of super-resolution stages, and hides from the
training loss. The true image does not reach an infinite PSNR either, where its
x_lr was made by another filter than this downscaling.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, Int

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, images, rng
from imagen_jax.core.arrays import Cond, Image, Params
from imagen_jax.diffusion import sampling
from imagen_jax.train.state import TrainState

_LEVELS = 127.5  # of 255, for 1 in [-1, 1]
_PEAK = 2.0  # from -1 to 1


class Difference(NamedTuple):
  """Of small images to those they should be."""

  psnr: Float[Array, ""]  # dB
  drift: Float[Array, "c"]  # levels, with sign
  drift_size: Float[Array, ""]  # levels, of each image and channel by itself


@dataclasses.dataclass(frozen=True, eq=False)
class SrConsistency:
  """Enlarges the x_lr of `cond` with fixed keys, from the EMA parameters."""

  stage: stage_lib.Stage
  cond: Cond
  settings: sampling.SamplerSettings
  every: int
  seed: int = 0

  def __post_init__(self):
    if self.stage.low_resolution is None:
      raise errors.BadInput(
        f"stage {self.stage.name!r} makes images from text alone; only a"
        " super-resolution stage has an x_lr to be consistent with."
      )

  def __call__(
    self, state: TrainState, step: int, workdir: epath.Path
  ) -> dict[str, float]:
    found = jax.device_get(
      _enlarged(
        self.stage, self.settings, state.ema_params, self.cond, self.seed
      )
    )
    red, green, blue = (float(x) for x in found.drift)
    return {
      "sr/psnr": float(found.psnr),
      "sr/drift": float(found.drift_size),
      "sr/drift_red": red,
      "sr/drift_green": green,
      "sr/drift_blue": blue,
    }


@partial(jax.jit, static_argnums=(0, 1))
def _enlarged(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  cond: Cond,
  seed: int | Int[Array, ""],
) -> Difference:
  x_lr = cond["x_lr"]
  keys = rng.keys_for(jax.random.key(seed), "image", jnp.arange(x_lr.shape[0]))
  text = {name: cond[name] for name in ("text_emb", "text_mask")}
  x0 = stage_lib.sample(stage, params, text, keys, settings, x_lr=x_lr)
  return difference(x0, x_lr)


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
