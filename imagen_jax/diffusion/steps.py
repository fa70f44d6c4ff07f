"""One reverse step z_t -> z_s, s < t: ancestral, DDIM, DPM-Solver++(2M).

Each is linear in what it is given, which `Coefficients` holds:

  z_s = z * z_t + x0 * x0_hat + x0_prev * x0_hat_prev + noise * normal

  h = (logsnr_s - logsnr_t) / 2, and h_prev that of the step before

  ancestral      mean and std of q(z_s | z_t, x0)           (Appendix A, Eq. 6)
  ddim           z_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std normal,
                 std = eta sigma_s sqrt(1 - e^-2h)  (Song et al. 2020, Eq. 12
                             and 16; eta = 0 is Imagen's Appendix A, Eq. 5)
  dpm_solver_pp  z_s = (sigma_s / sigma_t) z_t + alpha_s (1 - e^-h) D,
                 D = x0 + h / (2 h_prev) (x0 - x0_prev)
                                       (Lu et al. 2022, data prediction, 2M)
  sde_dpm_solver_pp
                 z_s = (sigma_s / sigma_t) e^-h z_t + alpha_s (1 - e^-2h) D
                       + sigma_s sqrt(1 - e^-2h) normal
                                              (the same, SDE, with the same D)

x0 is guided and thresholded; eps is what x0 and z_t imply, since none of the
formulas holds another eps. A first 2M step is the step of first order, with
x0 for D: DDIM, of the SDE with eta = 1, which is ancestral with gamma = 0. The
last step of every sampler is x0 itself (`table`).
"""

from typing import Literal, NamedTuple, assert_never, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Image, Logsnr
from imagen_jax.diffusion import process, schedules

Sampler = Literal["ancestral", "ddim", "dpm_solver_pp", "sde_dpm_solver_pp"]


class Coefficients(NamedTuple):
  """z_s = z * z_t + x0 * x0_hat + x0_prev * x0_hat_prev + noise * normal."""

  z: Float[Array, "*b"]
  x0: Float[Array, "*b"]
  x0_prev: Float[Array, "*b"]
  noise: Float[Array, "*b"]


def check_sampler(sampler: str) -> None:
  """Raises BadInput, with the alternatives, for an unknown name."""
  names = get_args(Sampler)
  if sampler not in names:
    raise errors.BadInput(
      f"sampler {sampler!r} is unknown; use one of {', '.join(names)}."
    )


def check_eta(eta: float) -> None:
  """Raises BadInput unless 0 <= eta <= 1."""
  if not 0.0 <= eta <= 1.0:
    raise errors.BadInput(
      f"eta is {eta}; it must be in [0, 1]: 0 draws no noise in DDIM, 1 as much"
      " as ancestral steps of the small variance."
    )


def draws_noise(sampler: Sampler, *, eta: float) -> bool:
  """Whether steps draw noise."""
  if sampler == "ddim":
    return eta > 0.0
  return sampler in ("ancestral", "sde_dpm_solver_pp")


def looks_back(sampler: Sampler) -> bool:
  """Whether steps need the x0 of the step before."""
  return sampler in ("dpm_solver_pp", "sde_dpm_solver_pp")


def ancestral_coefficients(
  logsnr_t: Float[Array, "*b"], logsnr_s: Float[Array, "*b"], *, gamma: float
) -> Coefficients:
  """Mean and std of q(z_s | z_t, x0); gamma in [0, 1] picks the variance."""
  scale = process.posterior_coefficients(logsnr_t, logsnr_s, gamma=gamma)
  return Coefficients(
    scale.z, scale.x0, jnp.zeros_like(scale.x0), noise=scale.std
  )


def ddim_coefficients(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  *,
  eta: float = 0.0,
) -> Coefficients:
  """DDIM; with q = sqrt(1 - eta^2 (1 - e^-2h)), the share of eps that stays,

  z = q sigma_s / sigma_t and x0 = alpha_s - alpha_t z = alpha_s (1 - q e^-h).
  """
  check_eta(eta)
  logsnr_t, logsnr_s = precision.at_least_float32(logsnr_t, logsnr_s)
  fall = logsnr_t - logsnr_s  # -2 h
  log_q = 0.5 * jnp.log1p(eta * eta * jnp.expm1(fall))
  log_sigma_t, log_sigma_s = (
    0.5 * schedules.log_alpha_squared(-logsnr)
    for logsnr in (logsnr_t, logsnr_s)
  )
  alpha_s, sigma_s = schedules.logsnr_to_alpha_sigma(logsnr_s)
  x0 = -alpha_s * jnp.expm1(log_q + 0.5 * fall)
  return Coefficients(
    z=jnp.exp(log_q + log_sigma_s - log_sigma_t),
    x0=x0,
    x0_prev=jnp.zeros_like(x0),
    noise=eta * sigma_s * jnp.sqrt(-jnp.expm1(fall)),
  )


def dpm_solver_pp_coefficients(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
) -> Coefficients:
  """2M; logsnr_prev is where x0_prev was predicted, -inf for a first step."""
  first = ddim_coefficients(logsnr_t, logsnr_s)
  return _extrapolated(first, logsnr_t, logsnr_s, logsnr_prev)


def sde_dpm_solver_pp_coefficients(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
) -> Coefficients:
  """2M of the SDE; logsnr_prev as of `dpm_solver_pp_coefficients`."""
  first = ancestral_coefficients(logsnr_t, logsnr_s, gamma=0.0)
  return _extrapolated(first, logsnr_t, logsnr_s, logsnr_prev)


def _extrapolated(
  first: Coefficients,
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
) -> Coefficients:
  """A step of first order with D in place of x0."""
  logsnr_t, logsnr_s, logsnr_prev = precision.at_least_float32(
    logsnr_t, logsnr_s, logsnr_prev
  )
  extra = 0.5 * (logsnr_s - logsnr_t) / (logsnr_t - logsnr_prev)
  return first._replace(x0=first.x0 * (1.0 + extra), x0_prev=-first.x0 * extra)


def table(
  logsnr: Float[Array, "n"],
  *,
  sampler: Sampler,
  gamma: float = 0.0,
  eta: float = 0.0,
) -> Coefficients:
  """Coefficients of all n - 1 steps between n rising values of logsnr.

  The last step returns x0: it ends at the data, not at logsnr[-1].
  """
  check_sampler(sampler)
  nothing = jnp.full((1,), -jnp.inf, logsnr.dtype)
  before, here, there = (
    jnp.concatenate([nothing, logsnr[:-2]]),
    logsnr[:-1],
    logsnr[1:],
  )
  if sampler == "ancestral":
    rows = ancestral_coefficients(here, there, gamma=gamma)
  elif sampler == "ddim":
    rows = ddim_coefficients(here, there, eta=eta)
  elif sampler == "dpm_solver_pp":
    rows = dpm_solver_pp_coefficients(here, there, before)
  elif sampler == "sde_dpm_solver_pp":
    rows = sde_dpm_solver_pp_coefficients(here, there, before)
  else:
    assert_never(sampler)
  last = Coefficients(z=0.0, x0=1.0, x0_prev=0.0, noise=0.0)
  return Coefficients(
    *(row.at[-1].set(end) for row, end in zip(rows, last, strict=True))
  )


def log_std_range(logsnr: Float[Array, "n"]) -> Float[Array, "m"]:
  """log(std at gamma = 1 / std at gamma = 0) of the n - 1 ancestral steps.

  0 for the last, which has no noise.
  """
  log_sigma = 0.5 * schedules.log_alpha_squared(-logsnr)
  return (log_sigma[:-1] - log_sigma[1:]).at[-1].set(0.0)


def apply(
  scale: Coefficients,
  z_t: Image,
  x0: Image,
  *,
  x0_prev: Image | None = None,
  noise: Image | None = None,
) -> Image:
  """z_s, with coefficients [] or [b]; None leaves a term out."""
  z_s = _times(scale.z, z_t) + _times(scale.x0, x0)
  if x0_prev is not None:
    z_s = z_s + _times(scale.x0_prev, x0_prev)
  if noise is not None:
    z_s = z_s + _times(scale.noise, noise)
  return z_s


def _times(scale: Float[Array, "*b"], x: Image) -> Image:
  scale, x = precision.at_least_float32(scale, x)
  return shapes.bcast_right(scale, x.ndim) * x


def ancestral(
  z_t: Image,
  x0: Image,
  noise: Image,
  logsnr_t: Logsnr,
  logsnr_s: Logsnr,
  *,
  gamma: float = 0.0,
) -> Image:
  """A draw of z_s from q(z_s | z_t, x0), with `noise` ~ N(0, I)."""
  scale = ancestral_coefficients(logsnr_t, logsnr_s, gamma=gamma)
  return apply(scale, z_t, x0, noise=noise)


def ddim(
  z_t: Image,
  x0: Image,
  logsnr_t: Logsnr,
  logsnr_s: Logsnr,
  *,
  eta: float = 0.0,
  noise: Image | None = None,
) -> Image:
  """alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std noise, std by eta."""
  if (noise is None) != (eta == 0.0):
    raise errors.BadInput(f"eta is {eta}; give noise where it is above 0.")
  scale = ddim_coefficients(logsnr_t, logsnr_s, eta=eta)
  return apply(scale, z_t, x0, noise=noise)


def dpm_solver_pp(
  z_t: Image,
  x0: Image,
  logsnr_t: Logsnr,
  logsnr_s: Logsnr,
  *,
  x0_prev: Image | None = None,
  logsnr_prev: Logsnr | None = None,
) -> Image:
  """A 2M step, given the x0_prev predicted at logsnr_prev; else the first."""
  _check_both(x0_prev, logsnr_prev)
  if x0_prev is None:
    return ddim(z_t, x0, logsnr_t, logsnr_s)
  scale = dpm_solver_pp_coefficients(logsnr_t, logsnr_s, logsnr_prev)
  return apply(scale, z_t, x0, x0_prev=x0_prev)


def sde_dpm_solver_pp(
  z_t: Image,
  x0: Image,
  noise: Image,
  logsnr_t: Logsnr,
  logsnr_s: Logsnr,
  *,
  x0_prev: Image | None = None,
  logsnr_prev: Logsnr | None = None,
) -> Image:
  """A 2M step of the SDE, with `noise` ~ N(0, I); without x0_prev the first."""
  _check_both(x0_prev, logsnr_prev)
  if x0_prev is None:
    return ancestral(z_t, x0, noise, logsnr_t, logsnr_s)
  scale = sde_dpm_solver_pp_coefficients(logsnr_t, logsnr_s, logsnr_prev)
  return apply(scale, z_t, x0, x0_prev=x0_prev, noise=noise)


def _check_both(x0_prev: Image | None, logsnr_prev: Logsnr | None) -> None:
  if (x0_prev is None) != (logsnr_prev is None):
    raise errors.BadInput("give both x0_prev and logsnr_prev, or neither.")
