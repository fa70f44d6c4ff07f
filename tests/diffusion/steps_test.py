"""One reverse step: the reference's vectors, formulas in float64, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import parameterization, process, schedules, steps

SHAPE = (3, 4, 4, 2)
LOGSNR_PREV = np.array([-20.0, -2.0, 3.0])
LOGSNR_T = np.array([-7.0, -1.0, 4.0])
LOGSNR_S = np.array([-6.0, 1.5, 9.0])


def draw(seed: int) -> jax.Array:
  """Float64 under the x64 fixture, else float32."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), float)


def circle(logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  alpha = np.sqrt(1.0 / (1.0 + np.exp(-logsnr)))
  sigma = np.sqrt(1.0 / (1.0 + np.exp(logsnr)))
  return alpha.reshape(3, 1, 1, 1), sigma.reshape(3, 1, 1, 1)


def test_the_vectors_of_the_reference(x64):
  levels = (schedules.cosine_logsnr(jnp.array([t])) for t in (0.5, 0.45))
  logsnr_t, logsnr_s = levels
  z_t, x0 = jnp.full((1, 1, 1, 1), 0.7), jnp.full((1, 1, 1, 1), 0.2)
  z_s = steps.ddim(z_t, x0, logsnr_t, logsnr_s)
  np.testing.assert_allclose(z_s.item(), 0.6651144874, rtol=0, atol=1e-9)
  noise = jnp.full((1, 1, 1, 1), 2.0)
  z_s = steps.ancestral(z_t, x0, noise, logsnr_t, logsnr_s, gamma=0.3)
  expected = 0.5902569629632507 + 2.0 * 0.3465278532
  np.testing.assert_allclose(z_s.item(), expected, rtol=0, atol=1e-9)
  wrong = steps.ancestral(z_t, x0, noise, logsnr_t, logsnr_s, gamma=0.4)
  assert abs(wrong.item() - expected) > 1e-3


def test_ddim_is_the_process_at_the_implied_eps(x64):
  z_t, x0 = draw(0), draw(1)
  logsnr_t, logsnr_s = jnp.asarray(LOGSNR_T), jnp.asarray(LOGSNR_S)
  _, eps = parameterization.from_x0(x0, z_t, logsnr_t)
  actual = steps.ddim(z_t, x0, logsnr_t, logsnr_s)
  expected = process.q_sample(x0, logsnr_s, eps)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_ancestral_is_a_draw_of_the_posterior(x64):
  z_t, x0, noise = draw(0), draw(1), draw(2)
  levels = jnp.asarray(LOGSNR_T), jnp.asarray(LOGSNR_S)
  actual = steps.ancestral(z_t, x0, noise, *levels, gamma=0.7)
  mean, std = process.posterior(z_t, x0, *levels, gamma=0.7)
  expected = mean + std.reshape(3, 1, 1, 1) * noise
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_dpm_solver_again_in_float64(x64):
  z_t, x0, x0_prev = (np.asarray(draw(seed)) for seed in range(3))
  halves = [
    x.reshape(3, 1, 1, 1) / 2 for x in (LOGSNR_PREV, LOGSNR_T, LOGSNR_S)
  ]
  h_prev, h = halves[1] - halves[0], halves[2] - halves[1]
  ratio = h_prev / h
  mixed = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * x0_prev
  (_, sigma_t), (alpha_s, sigma_s) = circle(LOGSNR_T), circle(LOGSNR_S)
  expected = sigma_s / sigma_t * z_t - alpha_s * (np.exp(-h) - 1) * mixed
  arrays = [jnp.asarray(x) for x in (z_t, x0, LOGSNR_T, LOGSNR_S)]
  actual = steps.dpm_solver_pp(
    *arrays, x0_prev=jnp.asarray(x0_prev), logsnr_prev=jnp.asarray(LOGSNR_PREV)
  )
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_the_first_dpm_solver_step_is_ddim(x64):
  z_t, x0, x0_prev = (draw(seed) for seed in range(3))
  levels = jnp.asarray(LOGSNR_T), jnp.asarray(LOGSNR_S)
  ddim = steps.ddim(z_t, x0, *levels)
  np.testing.assert_array_equal(steps.dpm_solver_pp(z_t, x0, *levels), ddim)
  from_infinity = steps.dpm_solver_pp(
    z_t, x0, *levels, x0_prev=x0_prev, logsnr_prev=jnp.full(3, -jnp.inf)
  )
  np.testing.assert_allclose(from_infinity, ddim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp"])
def test_exact_where_x0_never_changes(sampler, x64):
  # With one x0_hat for all times the flow is z_s = alpha_s x0 + sigma_s eps.
  x0, eps = draw(0), draw(1)
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, 8))
  rows = steps.table(logsnr, sampler=sampler)
  z = process.q_sample(x0, jnp.broadcast_to(logsnr[0], (3,)), eps)
  for i in range(6):
    row = jax.tree.map(lambda x, i=i: x[i], rows)
    z = steps.apply(row, z, x0, x0_prev=x0)
    levels = jnp.broadcast_to(logsnr[i + 1], (3,))
    expected = process.q_sample(x0, levels, eps)
    np.testing.assert_allclose(z, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver_pp"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_last_step_is_x0(sampler, n):
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, n + 1))
  rows = steps.table(logsnr, sampler=sampler, gamma=1.0)
  assert all(x.shape == (n,) for x in rows)
  assert all(np.all(np.isfinite(x)) for x in rows)
  assert [x[-1].item() for x in rows] == [0.0, 1.0, 0.0, 0.0]


def test_the_second_order_is_more_exact_than_the_first(x64):
  # Data N(0, 1/4): the flow from t = 0.9 to t = 0.1 has a closed form.
  def error(sampler, n):
    logsnr = schedules.cosine_logsnr(jnp.linspace(0.9, 0.1, n + 1))
    rows = steps.table(jnp.append(logsnr, logsnr[-1]), sampler=sampler)
    rows, logsnr = jax.tree.map(np.asarray, (rows, logsnr))
    alpha, sigma = 1.0 / np.sqrt(1.0 + np.exp([-logsnr, logsnr]))
    spread = np.sqrt(alpha**2 / 4 + sigma**2)
    z, x0 = 1.0, 0.0
    for i in range(n):
      x0_prev, x0 = x0, alpha[i] / 4 / spread[i] ** 2 * z
      z = rows.z[i] * z + rows.x0[i] * x0 + rows.x0_prev[i] * x0_prev
    return abs(z - spread[-1] / spread[0])

  assert error("dpm_solver_pp", 16) < 0.2 * error("ddim", 16)
  np.testing.assert_allclose(error("ddim", 64) / error("ddim", 128), 2, 0.1)
  second = error("dpm_solver_pp", 64) / error("dpm_solver_pp", 128)
  np.testing.assert_allclose(second, 4.0, rtol=0.1)


def test_promotion_and_jit():
  images = [draw(seed).astype(jnp.bfloat16) for seed in range(3)]
  levels = (
    jnp.asarray(LOGSNR_T, jnp.float32),
    jnp.asarray(LOGSNR_S, jnp.float32),
  )
  eager = steps.ancestral(*images, *levels)
  assert eager.dtype == jnp.float32
  jitted = jax.jit(steps.ancestral)(*images, *levels)
  np.testing.assert_allclose(eager, jitted, rtol=1e-5, atol=1e-6)


def test_bad_input():
  z_t, levels = jnp.zeros((1, 1, 1, 1)), jnp.zeros(1)
  with pytest.raises(errors.BadInput, match="ancestral, ddim, dpm_solver_pp"):
    steps.check_sampler("euler")
  with pytest.raises(errors.BadInput, match="both x0_prev and logsnr_prev"):
    steps.dpm_solver_pp(z_t, z_t, levels, levels, x0_prev=z_t)
