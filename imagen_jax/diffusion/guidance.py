"""Classifier-free guidance (paper section 2.2, Eq. 2).

  guided = w * cond + (1 - w) * uncond        w = 1 is off, w = 0 unconditional

"Unconditional" is text_emb of zeros under the same text_mask, as trained: text
is dropped for 10 % of examples. x0 is affine in eps and in v at a fixed z_t, so
mixing any of them gives the same x0 before thresholding. Others' "guidance
scale" g of cond + g (cond - uncond) is w - 1.

The weight may change over the steps, step 0 being the noisiest:
  interval     w inside a range of t, 1 outside (Kynkaanniemi et al. 2024)
  oscillating  w for some steps, then low, w, low, ... (Imagen Video, 2022)
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Cond, Image


def combine(
  cond: Image, uncond: Image, guidance_weight: float | Float[Array, ""]
) -> Image:
  """w * cond + (1 - w) * uncond; at w = 1 exactly `cond`."""
  cond, uncond = precision.at_least_float32(cond, uncond)
  weight = jnp.asarray(guidance_weight, cond.dtype)
  weight = shapes.bcast_right(weight, cond.ndim)
  return weight * cond + (1.0 - weight) * uncond


def _check(steps: int, *weights: float) -> None:
  if steps < 1:
    raise errors.BadInput(f"steps is {steps}; it must be at least 1.")
  for weight in weights:
    if not np.isfinite(weight):
      raise errors.BadInput(
        f"guidance_weight is {weight}; it must be finite (1 is off)."
      )


def weights_constant(
  steps: int, guidance_weight: float
) -> Float[np.ndarray, "{steps}"]:
  """The same weight at every step."""
  _check(steps, guidance_weight)
  return np.full(steps, guidance_weight, np.float64)


def weights_interval(
  t: Float[np.ndarray, "n"],
  guidance_weight: float,
  *,
  interval: tuple[float, ...],
) -> Float[np.ndarray, "n"]:
  """The weight at steps with low <= t <= high, 1 at others.

  interval = (low, high), with 0 <= low <= high <= 1.
  """
  _check(len(t), guidance_weight)
  low, high = interval if len(interval) == 2 else (math.nan, math.nan)
  if not 0.0 <= low <= high <= 1.0:
    raise errors.BadInput(
      f"guidance interval is {tuple(interval)}; it must be (low, high) in t "
      "with 0 <= low <= high <= 1."
    )
  return np.where((t >= low) & (t <= high), float(guidance_weight), 1.0)


def weights_oscillating(
  steps: int, guidance_weight: float, *, hold: int = 0, low: float = 1.0
) -> Float[np.ndarray, "{steps}"]:
  """The weight for `hold` steps, then low, weight, low, weight, ..."""
  _check(steps, guidance_weight, low)
  if hold < 0:
    raise errors.BadInput(f"guidance hold is {hold}; it must be at least 0.")
  index = np.arange(steps)
  is_low = (index >= hold) & ((index - hold) % 2 == 0)
  return np.where(is_low, float(low), float(guidance_weight))


def null_text(cond: Cond) -> Cond:
  """`cond` without its text: all else is kept.

  The text is that of `null_text_emb` [b l d] where cond has it, as a negative
  prompt or an encoder's states of "", and zeros elsewhere; the mask is that of
  `null_text_mask` [b l], or stays.
  """
  zeros = jnp.zeros_like(cond["text_emb"])
  return cond | {
    "text_emb": cond.get("null_text_emb", zeros),
    "text_mask": cond.get("null_text_mask", cond["text_mask"]),
  }


def drop_text(cond: Cond, drop: Bool[Array, "b"]) -> Cond:
  """`cond` with text_emb of zeros in the examples where `drop` is true."""
  text_emb = cond["text_emb"]
  zeros = jnp.zeros_like(text_emb)
  mask = shapes.bcast_right(drop, text_emb.ndim)
  return cond | {"text_emb": jnp.where(mask, zeros, text_emb)}
