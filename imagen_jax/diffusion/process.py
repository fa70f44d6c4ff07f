"""The Gaussian process: q(z_t | x0) and q(z_s | z_t, x0), in logsnr.

  z_t = alpha_t x0 + sigma_t eps

For s < t, with r = exp(logsnr_t - logsnr_s) (Appendix A, Eq. 6):
  mean = r (alpha_s / alpha_t) z_t + (1 - r) alpha_s x0
  small variance = (1 - r) sigma_s^2, that of q(z_s | z_t, x0)
  large variance = (1 - r) sigma_t^2, that of q(z_t | z_s)
  std^2 = small^(1 - gamma) large^gamma

1 - r is -expm1(logsnr_t - logsnr_s): exact between close steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Image, Logsnr
from imagen_jax.diffusion import parameterization, schedules


class Gaussian(NamedTuple):
  """A Gaussian with independent pixels of equal std."""

  mean: Image
  std: Float[Array, "b"]


class PosteriorCoefficients(NamedTuple):
  """mean = z * z_t + x0 * x0_hat, and std."""

  z: Float[Array, "*b"]
  x0: Float[Array, "*b"]
  std: Float[Array, "*b"]


def q_sample(x0: Image, logsnr: Logsnr, eps: Image) -> Image:
  """z_t = alpha x0 + sigma eps."""
  x0, logsnr, eps = precision.at_least_float32(x0, logsnr, eps)
  alpha, sigma = parameterization.alpha_sigma(logsnr)
  return alpha * x0 + sigma * eps


def check_gamma(gamma: float) -> None:
  """Raises BadInput unless 0 <= gamma <= 1."""
  if not 0.0 <= gamma <= 1.0:
    raise errors.BadInput(
      f"gamma is {gamma}; it must be in [0, 1]: 0 is the small variance, "
      "1 the large one."
    )


def posterior_coefficients(
  logsnr_t: Float[Array, "*b"], logsnr_s: Float[Array, "*b"], *, gamma: float
) -> PosteriorCoefficients:
  """Coefficients of q(z_s | z_t, x0); logsnr_t <= logsnr_s."""
  check_gamma(gamma)
  logsnr_t, logsnr_s = precision.at_least_float32(logsnr_t, logsnr_s)
  rest = -jnp.expm1(logsnr_t - logsnr_s)
  log_alpha_t = schedules.log_alpha_squared(logsnr_t)
  log_alpha_s = schedules.log_alpha_squared(logsnr_s)
  log_sigma_t = schedules.log_alpha_squared(-logsnr_t)
  log_sigma_s = schedules.log_alpha_squared(-logsnr_s)
  # r alpha_s / alpha_t = (alpha_t / alpha_s) (sigma_s / sigma_t)^2
  scale = 0.5 * (log_alpha_t - log_alpha_s) + log_sigma_s - log_sigma_t
  log_variance = (1.0 - gamma) * log_sigma_s + gamma * log_sigma_t
  return PosteriorCoefficients(
    z=jnp.exp(scale),
    x0=rest * jnp.exp(0.5 * log_alpha_s),
    std=jnp.sqrt(rest) * jnp.exp(0.5 * log_variance),
  )


def posterior(
  z_t: Image,
  x0: Image,
  logsnr_t: Logsnr,
  logsnr_s: Logsnr,
  *,
  gamma: float = 0.0,
) -> Gaussian:
  """q(z_s | z_t, x0), its variance between the small and the large one."""
  z_t, x0, logsnr_t, logsnr_s = precision.at_least_float32(
    z_t, x0, logsnr_t, logsnr_s
  )
  scale = posterior_coefficients(logsnr_t, logsnr_s, gamma=gamma)
  mean = (
    shapes.bcast_right(scale.z, 4) * z_t + shapes.bcast_right(scale.x0, 4) * x0
  )
  return Gaussian(mean, scale.std)
