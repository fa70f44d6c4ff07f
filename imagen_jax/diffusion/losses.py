"""The training loss: a noised image, a prediction, its weighted squared error.

  t ~ sample_time,  eps ~ N(0, I),  z_t = alpha x0 + sigma eps
  loss = weight(logsnr) * mean (denoise_fn(z_t, logsnr, cond) - target)^2

Imagen (Appendix A): t ~ U(0, 1), eps prediction, weight 1. A network that
outputs zero then has loss 1, up to sampling error.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import precision, rng, shapes
from imagen_jax.core.arrays import Cond, Image, Key, Logsnr
from imagen_jax.diffusion import (
  parameterization,
  process,
  schedules,
  time_sampling,
  weighting,
)


@runtime_checkable
class DenoiseFn(Protocol):
  """The network with its parameters bound."""

  def __call__(self, z_t: Image, logsnr: Logsnr, cond: Cond) -> Image: ...


class Loss(NamedTuple):
  """Losses of a batch, in float32 or better."""

  per_example: Float[Array, "b"]  # weighted: what is minimised
  mse: Float[Array, "b"]  # of the network's own output, unweighted
  logsnr: Logsnr  # the noise level that was drawn


def diffusion_loss(
  denoise_fn: DenoiseFn,
  x0: Image,
  cond: Cond,
  key: Key,
  *,
  schedule: schedules.Schedule,
  prediction: parameterization.Prediction = "eps",
  weighting: weighting.Weighting = "eps",
  sample_time: time_sampling.SampleTime = time_sampling.uniform,
) -> Loss:
  """The loss of each example of x0 in [-1, 1] at a random noise level."""
  (x0,) = precision.at_least_float32(x0)
  t = sample_time(rng.key_for(key, "time"), x0.shape[0])
  eps = jax.random.normal(rng.key_for(key, "eps"), x0.shape, x0.dtype)
  return loss_at(
    denoise_fn,
    x0,
    cond,
    schedule(t),
    eps,
    prediction=prediction,
    weighting=weighting,
  )


def loss_at(
  denoise_fn: DenoiseFn,
  x0: Image,
  cond: Cond,
  logsnr: Logsnr,
  eps: Image,
  *,
  prediction: parameterization.Prediction = "eps",
  weighting: weighting.Weighting = "eps",
) -> Loss:
  """The loss at a given noise level and noise; it draws nothing."""
  z_t = process.q_sample(x0, logsnr, eps)
  output = denoise_fn(z_t, logsnr, cond)
  target = parameterization.target(x0, eps, logsnr, prediction=prediction)
  output, target = precision.at_least_float32(output, target)
  mse = shapes.mean_flat(jnp.square(output - target))
  return Loss(_weighted(mse, weighting, prediction, logsnr), mse, logsnr)


def _weighted(
  mse: Float[Array, "b"],
  name: weighting.Weighting,
  prediction: parameterization.Prediction,
  logsnr: Logsnr,
) -> Float[Array, "b"]:
  weight = weighting.on_output(name, prediction, logsnr)
  mse, weight = precision.at_least_float32(mse, weight)
  return weight * mse
