"""One reverse step z_t -> z_s, s < t, by the numbers of `coefficients`."""

from jaxtyping import Array, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Image, Logsnr
from imagen_jax.diffusion import coefficients


def apply(
  scale: coefficients.Coefficients,
  z_t: Image,
  x0: Image,
  *,
  x0_prev: Image | None = None,
  x0_prev2: Image | None = None,
  noise: Image | None = None,
) -> Image:
  """z_s, with coefficients [] or [b]; None leaves a term out."""
  z_s = _times(scale.z, z_t) + _times(scale.x0, x0)
  if x0_prev is not None:
    z_s = z_s + _times(scale.x0_prev, x0_prev)
  if x0_prev2 is not None:
    z_s = z_s + _times(scale.x0_prev2, x0_prev2)
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
  scale = coefficients.ancestral(logsnr_t, logsnr_s, gamma=gamma)
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
  scale = coefficients.ddim(logsnr_t, logsnr_s, eta=eta)
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
  scale = coefficients.dpm_solver_pp(logsnr_t, logsnr_s, logsnr_prev)
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
  scale = coefficients.sde_dpm_solver_pp(logsnr_t, logsnr_s, logsnr_prev)
  return apply(scale, z_t, x0, x0_prev=x0_prev, noise=noise)


def _check_both(x0_prev: Image | None, logsnr_prev: Logsnr | None) -> None:
  if (x0_prev is None) != (logsnr_prev is None):
    raise errors.BadInput("give both x0_prev and logsnr_prev, or neither.")
