"""Sampling that begins with an image, or keeps a part of one. Knows no network.

Image to image (Meng et al. 2022, SDEdit): of n steps the last
k = round(strength n) are taken, from z_t = alpha x0 + sigma eps at the time t
where they begin. strength = 0 takes none: the image itself. strength = 1 takes
all, from eps alone: sampling without an image.

Inpainting (Lugmayr et al. 2022, RePaint): after each step z_t -> z_s the known
pixels are drawn anew from the image,

  z_s = mask z_s + (1 - mask) (alpha_s x0 + sigma_s eps),   mask = 1: repaint

and at the end they are x0. With resample = r a step but the last is taken r
times, and in between z_s goes back to z_t by q(z_t | z_s), so that what is
repainted can come to fit what is known:

  z_t = (alpha_t / alpha_s) z_s + sqrt(1 - exp(logsnr_t - logsnr_s)) sigma_t eps

DeepFloyd IF's inpainting (`keep_clean`) leaves the known pixels as they are in
every z, without noise, as the network was made to see them.

Example i depends on keys[i], its own image and its own conditioning alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Image, Keys
from imagen_jax.diffusion import process, sampling, schedules

# Numbers of steps of one turn and the next; each turn has noise of its own.
_TURN = 1 << 20
_MAX_RESAMPLE = 100


class Known(NamedTuple):
  """An image in [-1, 1], and where it is to be painted again."""

  x0: Image
  mask: Bool[Array, "b h w 1"]  # true: repaint; false: known, kept


def check(*, strength: float = 1.0, resample: int = 1) -> None:
  """Raises BadInput for a number that is out of range."""
  if not 0.0 <= strength <= 1.0:
    raise errors.BadInput(
      f"strength is {strength}; it must be in [0, 1]: 0 returns the image, 1"
      " does not look at it."
    )
  if not 1 <= resample <= _MAX_RESAMPLE:
    raise errors.BadInput(
      f"resample is {resample}; it must be a whole number from 1 to"
      f" {_MAX_RESAMPLE}."
    )


def steps_taken(strength: float, steps: int) -> int:
  """How many of `steps` a strength in [0, 1] takes; above 0 at least one."""
  check(strength=strength)
  return max(round(strength * steps), int(strength > 0.0))


def noised(x0: Image, keys: Keys, logsnr: Float[Array, ""]) -> Image:
  """z_t of an image, with the noise that `sampling.init` begins with."""
  eps = sampling.init(keys, x0.shape[1:]).z
  return process.q_sample(x0, jnp.broadcast_to(logsnr, x0.shape[:1]), eps)


def plan(rows: sampling.Plan, *, resample: int = 1) -> sampling.Plan:
  """The steps of inpainting: each of `rows` `resample` times, the last once.

  A solver that looks back becomes one of first order, DDIM: what it would look
  back at was drawn anew since. (Its weights of all x0 sum to those of DDIM.)
  """
  check(resample=resample)
  scale = rows.coefficients
  nothing = np.zeros_like(scale.x0)
  first_order = scale._replace(
    x0=scale.x0 + scale.x0_prev + scale.x0_prev2,
    x0_prev=nothing,
    x0_prev2=nothing,
  )
  times = np.where(np.isinf(rows.logsnr_next), 1, resample)
  index = np.repeat(np.arange(len(times)), times)
  turn = np.concatenate([np.arange(k) for k in times]).astype(np.int32)
  repeated = jax.tree.map(
    lambda x: np.asarray(x)[index], rows._replace(coefficients=first_order)
  )
  return repeated._replace(step=repeated.step + _TURN * turn)


def keep(known: Known, *, resample: int = 1) -> sampling.Edit:
  """What follows each step of `plan` with the same `resample`."""
  return jax.tree_util.Partial(_keep, known, jnp.int32(resample))


def keep_clean(known: Known) -> sampling.Edit:
  """What follows each step where known pixels get no noise."""
  return jax.tree_util.Partial(_keep_clean, known)


def _keep_clean(
  known: Known, z: Image, row: sampling.Plan, keys: Keys
) -> Image:
  del row, keys
  return jnp.where(known.mask, z, known.x0)


def _keep(
  known: Known,
  resample: Int[Array, ""],
  z: Image,
  row: sampling.Plan,
  keys: Keys,
) -> Image:
  """The known pixels at s; and, but in the last turn, all of z back at t."""
  last = jnp.isinf(row.logsnr_next)
  logsnr_s = jnp.where(last, 0.0, row.logsnr_next)
  kept = process.q_sample(
    known.x0, _each(logsnr_s, z), _noise(keys, "known", row, z)
  )
  z = jnp.where(known.mask, z, jnp.where(last, known.x0, kept))
  scale, std = _back(row.logsnr, logsnr_s)
  back = scale * z + std * _noise(keys, "back", row, z)
  again = (row.step // _TURN < resample - 1) & ~last
  return jnp.where(again, back, z)


def _back(
  logsnr_t: Float[Array, ""], logsnr_s: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Scale and std of q(z_t | z_s); logsnr_t < logsnr_s."""
  ratio = schedules.log_alpha_squared(logsnr_t) - schedules.log_alpha_squared(
    logsnr_s
  )
  _, sigma_t = schedules.logsnr_to_alpha_sigma(logsnr_t)
  return (
    jnp.exp(0.5 * ratio),
    sigma_t * jnp.sqrt(-jnp.expm1(logsnr_t - logsnr_s)),
  )


def _each(level: Float[Array, ""], z: Image) -> Float[Array, "b"]:
  return jnp.broadcast_to(level, z.shape[:1])


def _noise(keys: Keys, name: str, row: sampling.Plan, z: Image) -> Image:
  step_keys = rng.each_key_for(keys, name, row.step)
  draw = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:], jnp.float32))
  return draw(step_keys)
