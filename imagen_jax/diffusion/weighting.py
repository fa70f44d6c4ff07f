"""Loss weights as functions of logsnr, written on the squared error of x0.

  name            weight on the x0 loss    from
  eps             snr                      Imagen, Appendix A
  x0              1
  v               snr + 1                  Imagen Video
  truncated_snr   max(snr, 1)              progressive distillation
  min_snr         min(snr, 5)              Hang et al. 2023

|eps - eps_hat|^2 = snr |x0 - x0_hat|^2 and |v - v_hat|^2 = (snr + 1)
|x0 - x0_hat|^2, so the weight on the error of the network's own output is the
ratio. It is taken in logs: exactly 1 where weighting and prediction agree.
"""

import math
from typing import Literal, assert_never, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision
from imagen_jax.diffusion import parameterization

Weighting = Literal["eps", "x0", "v", "truncated_snr", "min_snr"]
_MIN_SNR_CAP = 5.0  # Hang et al. 2023


def check_weighting(weighting: str) -> None:
  """Raises BadInput, with the alternatives, for an unknown name."""
  names = get_args(Weighting)
  if weighting not in names:
    raise errors.BadInput(
      f"weighting {weighting!r} is unknown; use one of {', '.join(names)}."
    )


def log_weight(
  weighting: Weighting, logsnr: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  """Log of the weight on the x0 loss."""
  check_weighting(weighting)
  (logsnr,) = precision.at_least_float32(logsnr)
  if weighting == "eps":
    return logsnr
  if weighting == "x0":
    return jnp.zeros_like(logsnr)
  if weighting == "v":
    return jax.nn.softplus(logsnr)
  if weighting == "truncated_snr":
    return jnp.maximum(logsnr, 0.0)
  if weighting == "min_snr":
    return jnp.minimum(logsnr, math.log(_MIN_SNR_CAP))
  assert_never(weighting)


def on_x0(
  weighting: Weighting, logsnr: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  """The weight on |x0 - x0_hat|^2."""
  return jnp.exp(log_weight(weighting, logsnr))


def on_output(
  weighting: Weighting,
  prediction: parameterization.Prediction,
  logsnr: Float[Array, "*b"],
) -> Float[Array, "*b"]:
  """The weight on the squared error of the network's own output."""
  parameterization.check_prediction(prediction)
  own = log_weight(prediction, logsnr)
  return jnp.exp(log_weight(weighting, logsnr) - own)
