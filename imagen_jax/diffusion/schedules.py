"""Noise schedules: time t in [0, 1] -> logsnr, falling in t, and back.

  z_t = alpha * x0 + sigma * eps,   alpha^2 + sigma^2 = 1
  logsnr = log(alpha^2 / sigma^2),  alpha^2 = sigmoid(logsnr)

  cosine          logsnr = -2 log tan(a t + b), cut to [-20, 20]
  linear          the 1000 betas of DDPM, 1e-4 to 0.02, interpolated in logsnr
  shifted cosine  cosine + 2 log(64 / resolution)
  cosine_1000     1000 betas of a squared cosine (Nichol & Dhariwal 2021, Eq.
                  17), interpolated in logsnr: DeepFloyd IF's; step i of 0..999
                  is at t = i / 999

Imagen (section 4.1) trains 64x64 and 256x256 with the cosine schedule and
1024x1024 with the linear one; time is continuous. The shift is that of "simple
diffusion" (Hoogeboom et al. 2023). Both ends are finite, with finite gradients.
t may have any shape; the result has the same one.
"""

import functools
import math
import re
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.core import errors, precision

_SHIFTED = re.compile(r"shifted_cosine_([1-9][0-9]*)")


@runtime_checkable
class Schedule(Protocol):
  """t in [0, 1] -> logsnr, falling in t."""

  def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]: ...


def check_unit(x: Float[Array, "*b"], what: str) -> None:
  """Raises BadInput if a value lies outside [0, 1]; not while tracing."""
  if isinstance(x, jax.core.Tracer):
    return
  values = np.asarray(x, np.float64)
  bad = values[~((values >= 0.0) & (values <= 1.0))]
  if bad.size:
    raise errors.BadInput(f"{what} is {bad.flat[0]}; it must be in [0, 1].")


class _Angles(NamedTuple):
  slope: float
  start: float  # the angle at t = 0
  rest: float  # pi / 2 minus the angle at t = 1


def _cosine_angles(logsnr_min: float, logsnr_max: float) -> _Angles:
  if not logsnr_min < logsnr_max:
    raise errors.BadInput(
      f"logsnr_min {logsnr_min} must be below logsnr_max {logsnr_max}."
    )
  start = math.atan(math.exp(-0.5 * logsnr_max))
  rest = math.atan(math.exp(0.5 * logsnr_min))
  return _Angles(0.5 * math.pi - rest - start, start, rest)


def cosine_logsnr(
  t: Float[Array, "*b"], *, logsnr_min: float = -20.0, logsnr_max: float = 20.0
) -> Float[Array, "*b"]:
  """-2 log tan(a t + b), from logsnr_max at t = 0 to logsnr_min at t = 1."""
  check_unit(t, "t")
  (t,) = precision.at_least_float32(t)
  slope, start, rest = _cosine_angles(logsnr_min, logsnr_max)
  # tan(x) = sin(x) / sin(pi / 2 - x), with both angles exact where they are
  # small; tan itself loses five digits at t = 1 in float32.
  angle = slope * t + start
  complement = slope * (1.0 - t) + rest
  return 2.0 * (jnp.log(jnp.sin(complement)) - jnp.log(jnp.sin(angle)))


def cosine_time(
  logsnr: Float[Array, "*b"],
  *,
  logsnr_min: float = -20.0,
  logsnr_max: float = 20.0,
) -> Float[Array, "*b"]:
  """The t of a logsnr of `cosine_logsnr`, clipped to [0, 1]."""
  (logsnr,) = precision.at_least_float32(logsnr)
  slope, start, rest = _cosine_angles(logsnr_min, logsnr_max)
  small = jnp.arctan(jnp.exp(-0.5 * jnp.abs(logsnr)))
  early, late = (small - start) / slope, 1.0 - (small - rest) / slope
  return jnp.clip(jnp.where(logsnr >= 0.0, early, late), 0.0, 1.0)


def linear_betas(steps: int = 1000) -> Float[np.ndarray, "n"]:
  """The betas of DDPM, 1e-4 to 0.02, in float64."""
  if steps < 2:
    raise errors.BadInput(f"steps is {steps}; the table needs at least 2.")
  return np.linspace(1e-4, 0.02, steps, dtype=np.float64)


def discrete_logsnr(
  betas: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n"]:
  """logit(prod(1 - beta)) after each step, in float64."""
  log_alpha_squared = np.cumsum(np.log1p(-betas))
  return log_alpha_squared - np.log(-np.expm1(log_alpha_squared))


def squared_cosine_betas(steps: int = 1000) -> Float[np.ndarray, "n"]:
  """1 - f((i + 1) / n) / f(i / n), at most 0.999, in float64.

  f(s) = cos^2(pi / 2 (s + 0.008) / 1.008)
  """
  s = np.arange(steps + 1, dtype=np.float64) / steps
  f = np.square(np.cos(0.5 * np.pi * (s + 0.008) / 1.008))
  return np.minimum(1.0 - f[1:] / f[:-1], 0.999)


def linear_logsnr(t: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """The 1000 values of the linear betas, interpolated over linspace(0, 1)."""
  return _interpolated(discrete_logsnr(linear_betas()), t)


def cosine_1000_logsnr(t: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """The 1000 values of the squared cosine, interpolated over linspace(0, 1)."""
  return _interpolated(discrete_logsnr(squared_cosine_betas()), t)


def _interpolated(
  table: Float[np.ndarray, "n"], t: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  """The table's values between those at linspace(0, 1)."""
  check_unit(t, "t")
  (t,) = precision.at_least_float32(t)
  last = table.size - 1
  position = t * last
  index = jnp.clip(jnp.floor(position), 0, last - 1).astype(jnp.int32)
  values = jnp.asarray(table, t.dtype)
  falls = jnp.asarray(np.diff(table), t.dtype)
  return values[index] + (position - index.astype(t.dtype)) * falls[index]


def linear_time(logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """The t of a logsnr of `linear_logsnr`, clipped to [0, 1]."""
  return _time_in(discrete_logsnr(linear_betas()), logsnr)


def cosine_1000_time(logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """The t of a logsnr of `cosine_1000_logsnr`, clipped to [0, 1]."""
  return _time_in(discrete_logsnr(squared_cosine_betas()), logsnr)


def cosine_1000_step(logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """The nearest of the steps 0..999 to a logsnr of `cosine_1000_logsnr`."""
  return jnp.round(999.0 * cosine_1000_time(logsnr))


def _time_in(
  table: Float[np.ndarray, "n"], logsnr: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  (logsnr,) = precision.at_least_float32(logsnr)
  rising = jnp.asarray(table[::-1].copy(), logsnr.dtype)
  times = jnp.asarray(np.linspace(1.0, 0.0, table.size), logsnr.dtype)
  return jnp.interp(logsnr, rising, times)


def _shift(resolution: int, reference: int) -> float:
  if resolution < 1 or reference < 1:
    raise errors.BadInput(
      f"resolution {resolution} and reference {reference} must be at least 1."
    )
  return 2.0 * math.log(reference / resolution)


def shifted_cosine_logsnr(
  t: Float[Array, "*b"], *, resolution: int, reference: int = 64
) -> Float[Array, "*b"]:
  """cosine_logsnr(t) + 2 log(reference / resolution)."""
  return cosine_logsnr(t) + _shift(resolution, reference)


def shifted_cosine_time(
  logsnr: Float[Array, "*b"], *, resolution: int, reference: int = 64
) -> Float[Array, "*b"]:
  """The t of a logsnr of `shifted_cosine_logsnr`, clipped to [0, 1]."""
  (logsnr,) = precision.at_least_float32(logsnr)
  return cosine_time(logsnr - _shift(resolution, reference))


def log_alpha_squared(logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """log(alpha^2); that of -logsnr is log(sigma^2). Finite gradients."""
  (logsnr,) = precision.at_least_float32(logsnr)
  return jax.nn.log_sigmoid(logsnr)


def logsnr_to_alpha_sigma(
  logsnr: Float[Array, "*b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """(alpha, sigma); +inf gives (1, 0) and -inf gives (0, 1)."""
  alpha = jnp.exp(0.5 * log_alpha_squared(logsnr))
  sigma = jnp.exp(0.5 * log_alpha_squared(-logsnr))
  return alpha, sigma


def alpha_sigma_to_logsnr(
  alpha: Float[Array, "*b"], sigma: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  """log(alpha^2 / sigma^2), for positive alpha and sigma."""
  alpha, sigma = precision.at_least_float32(alpha, sigma)
  return 2.0 * (jnp.log(alpha) - jnp.log(sigma))


@functools.cache
def _shifted(resolution: int, *, inverse: bool) -> Schedule:
  # Cached, so that equal names are one object and compile once.
  function = shifted_cosine_time if inverse else shifted_cosine_logsnr
  return functools.partial(function, resolution=resolution)


def _named(name: str, *, inverse: bool) -> Schedule:
  table = {
    "cosine": (cosine_logsnr, cosine_time),
    "linear": (linear_logsnr, linear_time),
    "cosine_1000": (cosine_1000_logsnr, cosine_1000_time),
  }
  if name in table:
    return table[name][inverse]
  match = _SHIFTED.fullmatch(name)
  if match is None:
    raise errors.BadInput(
      f"schedule {name!r} is unknown; use cosine, linear,"
      " cosine_1000 or shifted_cosine_N with N the resolution, as"
      " shifted_cosine_256."
    )
  return _shifted(int(match[1]), inverse=inverse)


def by_name(name: str) -> Schedule:
  """The schedule t -> logsnr: cosine, linear, cosine_1000, ..."""
  return _named(name, inverse=False)


def inverse_by_name(name: str) -> Schedule:
  """The inverse logsnr -> t of `by_name`."""
  return _named(name, inverse=True)
