"""DDPM in its discrete form (Ho et al. 2020): Algorithms 1 and 2.

  beta_t for t = 1..T,  a_t = 1 - beta_t,  abar_t = a_1 ... a_t

  Algorithm 1  z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps,  t ~ U{1..T};
               loss = mean (eps_hat(z_t, t) - eps)^2
  Algorithm 2  z_T ~ N(0, I); for t = T..1
               z_{t-1} = (z_t - beta_t / sqrt(1 - abar_t) eps_hat) / sqrt(a_t)
                         + std_t normal,  no noise at t = 1
               std_t^2 = beta_t ("large") or
                         beta_t (1 - abar_{t-1}) / (1 - abar_t) ("small")

Written from the betas alone, to hold the code in logsnr to account: with the
linear betas, step t is the time (t - 1) / (T - 1) of `schedules.linear_logsnr`,
"small" is gamma = 0 and "large" gamma = 1. Nothing else uses it. The network
here is told the integer step.
"""

from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from imagen_jax.core import errors, precision, rng, shapes
from imagen_jax.core.arrays import Image, Key, Keys

Variance = Literal["small", "large"]


@runtime_checkable
class EpsFn(Protocol):
  """(z_t, step in 1..T) -> eps_hat."""

  def __call__(self, z_t: Image, step: Int[Array, "b"]) -> Image: ...


class Table(NamedTuple):
  """Scales of each step 1..T at index 1..T, in float64; index 0 is data."""

  alpha: Float[np.ndarray, "n"]  # sqrt(abar)
  sigma: Float[np.ndarray, "n"]  # sqrt(1 - abar)
  z: Float[np.ndarray, "n"]  # 1 / sqrt(a)
  eps: Float[np.ndarray, "n"]  # -beta / (sqrt(1 - abar) sqrt(a))
  std_small: Float[np.ndarray, "n"]
  std_large: Float[np.ndarray, "n"]


def table(betas: Float[np.ndarray, "t"]) -> Table:
  """Scales of all steps; each beta in (0, 1)."""
  if betas.size < 1 or not np.all((betas > 0.0) & (betas < 1.0)):
    raise errors.BadInput("betas must be one or more values inside (0, 1).")
  betas = np.concatenate([[0.0], np.asarray(betas, np.float64)])
  abar = np.cumprod(1.0 - betas)
  before = np.concatenate([[1.0], abar[:-1]])
  rest = np.where(abar < 1.0, 1.0 - abar, 1.0)  # 1 at index 0, never read
  variance = betas * (1.0 - before) / rest
  large = np.where(np.arange(betas.size) > 1, betas, 0.0)
  return Table(
    alpha=np.sqrt(abar),
    sigma=np.sqrt(1.0 - abar),
    z=1.0 / np.sqrt(1.0 - betas),
    eps=-betas / np.sqrt(rest * (1.0 - betas)),
    std_small=np.sqrt(variance),
    std_large=np.sqrt(large),
  )


def _times(
  row: Float[np.ndarray, "n"], step: Int[Array, "b"], x: Image
) -> Image:
  scale = jnp.asarray(row, x.dtype)[step]
  return shapes.bcast_right(scale, x.ndim) * x


def q_sample(
  x0: Image, step: Int[Array, "b"], eps: Image, *, scales: Table
) -> Image:
  """z_t of Algorithm 1, at step in 1..T."""
  x0, eps = precision.at_least_float32(x0, eps)
  return _times(scales.alpha, step, x0) + _times(scales.sigma, step, eps)


def loss(
  eps_fn: EpsFn, x0: Image, key: Key, *, scales: Table
) -> Float[Array, "b"]:
  """Algorithm 1: the squared error of eps at a uniform step, per example."""
  (x0,) = precision.at_least_float32(x0)
  last = scales.alpha.size
  step = jax.random.randint(rng.key_for(key, "time"), x0.shape[:1], 1, last)
  eps = jax.random.normal(rng.key_for(key, "eps"), x0.shape, x0.dtype)
  output = eps_fn(q_sample(x0, step, eps, scales=scales), step)
  output, eps = precision.at_least_float32(output, eps)
  return shapes.mean_flat(jnp.square(output - eps))


def check_variance(variance: str) -> None:
  """Raises BadInput, with the alternatives, for an unknown name."""
  names = get_args(Variance)
  if variance not in names:
    raise errors.BadInput(
      f"variance {variance!r} is unknown; use one of {', '.join(names)}."
    )


def reverse_step(
  z_t: Image,
  eps_hat: Image,
  step: Int[Array, "b"],
  noise: Image,
  *,
  scales: Table,
  variance: Variance,
) -> Image:
  """z_{t-1} of Algorithm 2; at step 1 the noise is left out."""
  check_variance(variance)
  z_t, eps_hat, noise = precision.at_least_float32(z_t, eps_hat, noise)
  std = scales.std_small if variance == "small" else scales.std_large
  mean = _times(scales.z, step, z_t) + _times(scales.eps, step, eps_hat)
  return mean + _times(std, step, noise)


def sample(
  eps_fn: EpsFn,
  keys: Keys,
  *,
  shape: tuple[int, int, int],
  scales: Table,
  variance: Variance,
) -> Image:
  """Algorithm 2 from N(0, I) to x0, example i from keys[i] alone."""

  def body(z_t: Image, step: Int[Array, ""]) -> tuple[Image, None]:
    # Counted from the noisiest step, as in `sampling`: the same draws.
    noise = _normal(rng.each_key_for(keys, "step", last - step), shape)
    steps = jnp.broadcast_to(step, z_t.shape[:1])
    z_s = reverse_step(
      z_t, eps_fn(z_t, steps), steps, noise, scales=scales, variance=variance
    )
    return z_s, None

  last = scales.alpha.size - 1
  start = _normal(rng.each_key_for(keys, "init"), shape)
  return jax.lax.scan(body, start, jnp.arange(last, 0, -1, jnp.int32))[0]


def _normal(keys: Keys, shape: tuple[int, int, int]) -> Image:
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
