"""Few steps against many, of a mixture of Gaussians: its best x0 is known."""

import functools

import numpy as np
import pytest

from imagen_jax.diffusion import sampling, schedules

MEAN = np.array([-0.9, -0.3, 0.5, 0.95])
STD = np.array([0.05, 0.1, 0.02, 0.02])
SHARE = np.array([0.2, 0.3, 0.3, 0.2])


def circle(logsnr: float) -> tuple[float, float]:
  alpha, sigma = 1.0 / np.sqrt(1.0 + np.exp([-logsnr, logsnr]))
  return alpha, sigma


def best_x0(z: np.ndarray, logsnr: float) -> np.ndarray:
  """E[x0 | z] of the mixture."""
  alpha, sigma = circle(logsnr)
  variance = (alpha * STD) ** 2 + sigma**2
  rest = z[:, None] - alpha * MEAN
  log_share = np.log(SHARE) - 0.5 * (np.log(variance) + rest**2 / variance)
  share = np.exp(log_share - log_share.max(axis=1, keepdims=True))
  share /= share.sum(axis=1, keepdims=True)
  return np.sum(share * (MEAN + alpha * STD**2 / variance * rest), axis=1)


@functools.cache
def end(schedule: str, steps: int, **options: str) -> np.ndarray:
  """Where 1,000 draws of z end, by the rows of the plan, in float64."""
  settings = sampling.SamplerSettings(steps=steps, **options)
  plan = sampling.plan(settings, schedules.by_name(schedule))
  rows = plan.coefficients
  z = np.random.default_rng(0).normal(size=1000)
  x0 = x0_prev = np.zeros(1000)
  for i in range(steps):
    x0_prev2, x0_prev, x0 = x0_prev, x0, best_x0(z, plan.logsnr[i])
    z = rows.z[i] * z + rows.x0[i] * x0 + rows.x0_prev[i] * x0_prev
    z = z + rows.x0_prev2[i] * x0_prev2
  return z


def distance(schedule: str, steps: int, **options: str) -> float:
  """RMS from where 2,000 steps end."""
  fine = end(schedule, 2000, sampler="dpm_solver_pp")
  return np.sqrt(np.mean((end(schedule, steps, **options) - fine) ** 2))


@pytest.mark.parametrize(
  ("schedule", "least", "most"), [("linear", 0.4, 0.6), ("cosine", 0.9, 1.6)]
)
def test_even_in_logsnr_is_for_the_linear_schedule(schedule, least, most):
  """docs/sampling.md has the figures."""
  of = functools.partial(distance, schedule, 16, sampler="dpm_solver_pp")
  even, uniform = of(spacing="logsnr"), of(spacing="uniform")
  print(f"{schedule}: {even:.3f} by logsnr, {uniform:.3f} by uniform")
  assert least < even / uniform < most
