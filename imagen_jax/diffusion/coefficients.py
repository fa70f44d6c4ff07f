"""The numbers of one reverse step z_t -> z_s, s < t, of every sampler.

Each is linear in what it is given:

  z_s = z * z_t + x0 * x0_hat + x0_prev * x0_hat_prev + x0_prev2 * x0_hat_prev2
        + noise * normal

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
  unipc          the step of dpm_solver_pp from z_t corrected: now that x0 is
                 known at t, the step to t is taken again with it  (`unipc`)

x0 is guided and thresholded; eps is what x0 and z_t imply, since none of the
formulas holds another eps. A first step of those that look back is the step of
first order, with x0 for D: DDIM, of the SDE with eta = 1, which is ancestral
with gamma = 0. The last step of every sampler is x0 itself (`table`).
"""

from typing import Literal, NamedTuple, assert_never, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision
from imagen_jax.diffusion import process, schedules

Sampler = Literal[
  "ancestral", "ddim", "dpm_solver_pp", "sde_dpm_solver_pp", "unipc"
]


class Coefficients(NamedTuple):
  """What a step multiplies, as above; x0_prev2 is of two steps before."""

  z: Float[Array, "*b"]
  x0: Float[Array, "*b"]
  x0_prev: Float[Array, "*b"]
  x0_prev2: Float[Array, "*b"]
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


def looks_back(sampler: Sampler) -> int:
  """How many x0 of the steps before a step needs."""
  return {"dpm_solver_pp": 1, "sde_dpm_solver_pp": 1, "unipc": 2}.get(
    sampler, 0
  )


def ancestral(
  logsnr_t: Float[Array, "*b"], logsnr_s: Float[Array, "*b"], *, gamma: float
) -> Coefficients:
  """Mean and std of q(z_s | z_t, x0); gamma in [0, 1] picks the variance."""
  scale = process.posterior_coefficients(logsnr_t, logsnr_s, gamma=gamma)
  nothing = jnp.zeros_like(scale.x0)
  return Coefficients(scale.z, scale.x0, nothing, nothing, noise=scale.std)


def ddim(
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
    x0_prev2=jnp.zeros_like(x0),
    noise=eta * sigma_s * jnp.sqrt(-jnp.expm1(fall)),
  )


def dpm_solver_pp(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
) -> Coefficients:
  """2M; logsnr_prev is where x0_prev was predicted, -inf for a first step."""
  return _extrapolated(
    ddim(logsnr_t, logsnr_s), logsnr_t, logsnr_s, logsnr_prev
  )


def sde_dpm_solver_pp(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
) -> Coefficients:
  """2M of the SDE; logsnr_prev as of `dpm_solver_pp`."""
  first = ancestral(logsnr_t, logsnr_s, gamma=0.0)
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


def unipc(
  logsnr_t: Float[Array, "*b"],
  logsnr_s: Float[Array, "*b"],
  logsnr_prev: Float[Array, "*b"],
  logsnr_prev2: Float[Array, "*b"],
) -> Coefficients:
  """UniPC of order 2, of x0, with B_2(h) (Zhao et al. 2023, section 3).

  The predictor, UniP-2, is 2M. The corrector of the step that ended at t, with
  its h, alpha and x0s, and r = -h_prev / h,

    z_t += alpha_t (1 - e^-h) (rho_2 (x0 - x0_prev)
                               + (rho_1 - 1/2) / r (x0_prev2 - x0_prev))

  takes out what the predictor had put in, so that z_t before it, which the
  network saw, is enough. x0_prev2 was predicted at logsnr_prev2; -inf for what
  was before the first.
  """
  logsnr_t, logsnr_prev, logsnr_prev2 = precision.at_least_float32(
    logsnr_t, logsnr_prev, logsnr_prev2
  )
  rows = dpm_solver_pp(logsnr_t, logsnr_s, logsnr_prev)
  is_first, is_second = jnp.isinf(logsnr_prev), jnp.isinf(logsnr_prev2)
  # Of the step to t; where there is none, of any numbers.
  h = 0.5 * jnp.where(is_first, 1.0, logsnr_t - logsnr_prev)
  h_prev = 0.5 * jnp.where(is_second, 1.0, logsnr_prev - logsnr_prev2)
  r = -h_prev / h
  rho_1, rho_2 = _corrector(h, r)
  # The second step corrects the first, which had no x0_prev2.
  new = jnp.where(is_second, 0.5, rho_2)
  old = jnp.where(is_second, 0.0, (rho_1 - 0.5) / r)
  scale = rows.z * ddim(logsnr_prev, logsnr_t).x0  # alpha_t (1 - e^-h), to s
  new, old = (jnp.where(is_first, 0.0, scale * x) for x in (new, old))
  return rows._replace(
    x0=rows.x0 + new, x0_prev=rows.x0_prev - new - old, x0_prev2=old
  )


def _corrector(
  h: Float[Array, "*b"], r: Float[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """rho_1 and rho_2, which solve rho_1 r^k + rho_2 = b_k for k = 0, 1.

  With q = 1 - e^-h: b_0 = 1/q - 1/h and b_1 = 1/q - 2/h (1/q - 1/h).
  """
  inverse = -1.0 / jnp.expm1(-h)
  b_0 = inverse - 1.0 / h
  b_1 = inverse - 2.0 / h * b_0
  rho_1 = (b_0 - b_1) / (1.0 - r)
  return rho_1, b_0 - rho_1


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
  n = logsnr.shape[0] - 1
  padded = jnp.concatenate([jnp.full((2,), -jnp.inf, logsnr.dtype), logsnr])
  before2, before, here, there = (padded[k : k + n] for k in range(4))
  if sampler == "ancestral":
    rows = ancestral(here, there, gamma=gamma)
  elif sampler == "ddim":
    rows = ddim(here, there, eta=eta)
  elif sampler == "dpm_solver_pp":
    rows = dpm_solver_pp(here, there, before)
  elif sampler == "sde_dpm_solver_pp":
    rows = sde_dpm_solver_pp(here, there, before)
  elif sampler == "unipc":
    rows = unipc(here, there, before, before2)
  else:
    assert_never(sampler)
  last = Coefficients(z=0.0, x0=1.0, x0_prev=0.0, x0_prev2=0.0, noise=0.0)
  return Coefficients(
    *(row.at[-1].set(end) for row, end in zip(rows, last, strict=True))
  )


def log_std_range(logsnr: Float[Array, "n"]) -> Float[Array, "m"]:
  """log(std at gamma = 1 / std at gamma = 0) of the n - 1 ancestral steps.

  0 for the last, which has no noise.
  """
  log_sigma = 0.5 * schedules.log_alpha_squared(-logsnr)
  return (log_sigma[:-1] - log_sigma[1:]).at[-1].set(0.0)
