"""Algorithms 1 and 2 of DDPM, and their equality with the code in logsnr."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import (
  ddpm,
  losses,
  parameterization,
  process,
  sampling,
  schedules,
  steps,
)

# Integer steps 1..1000 with the neighbours at both ends.
STEPS = np.array([1, 2, 3, 10, 250, 500, 997, 999, 1000])
SHAPE = (len(STEPS), 3, 3, 2)


def draw(seed: int) -> jax.Array:
  """Float64 under the x64 fixture, else float32."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), float)


def table() -> ddpm.Table:
  return ddpm.table(schedules.linear_betas())


def level(step: np.ndarray) -> jax.Array:
  """logsnr of integer steps in 1..1000, by the continuous schedule."""
  return schedules.linear_logsnr(jnp.asarray((step - 1) / 999.0, float))


def test_the_forward_process_is_the_continuous_one(x64):
  x0, eps = draw(0), draw(1)
  discrete = ddpm.q_sample(x0, jnp.asarray(STEPS), eps, scales=table())
  continuous = process.q_sample(x0, level(STEPS), eps)
  np.testing.assert_allclose(discrete, continuous, rtol=0, atol=1e-9)
  shifted = process.q_sample(x0, level(np.maximum(STEPS - 1, 1)), eps)
  assert np.max(np.abs(discrete - shifted)) > 1e-3


@pytest.mark.parametrize(
  ("variance", "interpolation"), [("small", 0.0), ("large", 1.0)]
)
def test_a_reverse_step_is_the_continuous_one(variance, interpolation, x64):
  z_t, eps_hat, noise = draw(0), draw(1), draw(2)
  discrete = ddpm.reverse_step(
    z_t, eps_hat, jnp.asarray(STEPS), noise, scales=table(), variance=variance
  )
  logsnr_t, logsnr_s = level(STEPS), level(np.maximum(STEPS - 1, 1))
  x0, _ = parameterization.to_x0_eps(eps_hat, z_t, logsnr_t, prediction="eps")
  continuous = steps.ancestral(
    z_t, x0, noise, logsnr_t, logsnr_s, gamma=interpolation
  )
  np.testing.assert_allclose(discrete[1:], continuous[1:], rtol=0, atol=1e-9)
  # The step after the grid's first point returns x0, without noise.
  np.testing.assert_allclose(discrete[0], x0[0], rtol=0, atol=1e-9)
  other = steps.ancestral(z_t, x0, noise, logsnr_t, logsnr_s, gamma=0.5)
  assert np.max(np.abs(discrete[1:] - other[1:])) > 1e-3


def test_algorithm_1_is_the_continuous_loss(x64):
  x0, scales = draw(0), table()
  seen = {}

  def eps_fn(z_t, step):
    seen.update(z_t=z_t, step=step)
    return jnp.tanh(z_t)

  discrete = ddpm.loss(eps_fn, x0, jax.random.key(0), scales=scales)
  logsnr = level(np.asarray(seen["step"]))
  _, eps = parameterization.from_x0(x0, seen["z_t"], logsnr)
  continuous = losses.loss_at(
    lambda z_t, logsnr, cond: jnp.tanh(z_t), x0, {}, logsnr, eps
  )
  np.testing.assert_allclose(discrete, continuous.per_example, rtol=1e-9)
  wrong = losses.loss_at(lambda z_t, logsnr, cond: z_t, x0, {}, logsnr, eps)
  assert np.all(np.abs(discrete - wrong.per_example) > 1e-3)


@pytest.mark.parametrize(
  ("variance", "interpolation"), [("small", 0.0), ("large", 1.0)]
)
def test_algorithm_2_is_the_continuous_sampler(variance, interpolation):
  betas = schedules.linear_betas(10) * 10.0
  grid = schedules.discrete_logsnr(betas)

  def schedule(t):
    # Step i of 10 at t = i / 10; t = 0 is the data, where sampling ends.
    rising = jnp.asarray(np.append(grid[0] + 5.0, grid), t.dtype)
    times = jnp.asarray(np.linspace(0.0, 1.0, 11), t.dtype)
    return jnp.interp(t, times, rising)

  def eps_fn(z_t, step):
    row = jnp.asarray(grid, jnp.float32)[step - 1]
    return denoise_fn(z_t, row, {})

  def denoise_fn(z_t, logsnr, cond):
    return jnp.tanh(z_t) * jax.nn.sigmoid(-logsnr)[:, None, None, None]

  keys = jax.random.split(jax.random.key(0), 2)
  discrete = ddpm.sample(
    eps_fn, keys, shape=(4, 4, 3), scales=ddpm.table(betas), variance=variance
  )
  run = functools.partial(
    sampling.sample_trajectory,
    denoise_fn,
    {},
    keys,
    shape=(4, 4, 3),
    schedule=schedule,
    prediction="eps",
  )
  settings = sampling.SamplerSettings(
    steps=10, threshold="none", gamma=interpolation
  )
  continuous = run(settings=settings).z[-1]
  np.testing.assert_allclose(discrete, continuous, rtol=0, atol=1e-5)
  assert np.std(discrete) > 0.1


def test_the_table_again():
  scales, betas = table(), np.linspace(1e-4, 0.02, 1000)
  product = 1.0
  for i in (1, 2, 1000):
    product = np.prod(1.0 - betas[:i])
    np.testing.assert_allclose(scales.alpha[i] ** 2, product, rtol=1e-9)
    np.testing.assert_allclose(scales.sigma[i] ** 2, 1 - product, rtol=1e-9)
  np.testing.assert_allclose(scales.alpha[1000] ** 2, 4.0358e-5, rtol=2e-5)
  assert scales.std_small[1] == scales.std_large[1] == 0.0
  assert scales.std_large[2] == np.sqrt(betas[1])


def test_bad_input():
  with pytest.raises(errors.BadInput, match="inside"):
    ddpm.table(np.array([0.1, 1.0]))
  with pytest.raises(errors.BadInput, match="small, large"):
    ddpm.check_variance("learned")
