"""One reverse step: the reference's vectors, formulas in float64, limits."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import (
  coefficients,
  parameterization,
  process,
  schedules,
  steps,
)

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


def song(z_t, x0, noise, eta):
  """Equations 12 and 16 as they are printed, with abar = alpha^2."""
  (alpha_t, sigma_t), (alpha_s, sigma_s) = circle(LOGSNR_T), circle(LOGSNR_S)
  std = eta * sigma_s / sigma_t * np.sqrt(1 - alpha_t**2 / alpha_s**2)
  eps = (z_t - alpha_t * x0) / sigma_t
  return alpha_s * x0 + np.sqrt(sigma_s**2 - std**2) * eps + std * noise


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_with_noise_again_in_float64(eta, x64):
  z_t, x0, noise = (draw(seed) for seed in range(3))
  levels = jnp.asarray(LOGSNR_T), jnp.asarray(LOGSNR_S)
  some = noise if eta else None
  actual = steps.ddim(z_t, x0, *levels, eta=eta, noise=some)
  np.testing.assert_allclose(actual, song(z_t, x0, noise, eta), atol=1e-9)
  if eta == 1.0:
    ancestral = steps.ancestral(z_t, x0, noise, *levels, gamma=0.0)
    np.testing.assert_allclose(actual, ancestral, rtol=0, atol=1e-12)


def test_the_sde_again_in_float64(x64):
  z_t, x0, x0_prev, noise = (np.asarray(draw(seed)) for seed in range(4))
  lambda_prev, lambda_t, lambda_s = (
    x.reshape(3, 1, 1, 1) / 2 for x in (LOGSNR_PREV, LOGSNR_T, LOGSNR_S)
  )
  h = lambda_s - lambda_t
  mixed = x0 + (x0 - x0_prev) / (2 * (lambda_t - lambda_prev) / h)
  (_, sigma_t), (alpha_s, sigma_s) = circle(LOGSNR_T), circle(LOGSNR_S)
  expected = (
    sigma_s / sigma_t * np.exp(-h) * z_t
    + alpha_s * (1 - np.exp(-2 * h)) * mixed
    + sigma_s * np.sqrt(1 - np.exp(-2 * h)) * noise
  )
  arrays = [jnp.asarray(x) for x in (z_t, x0, noise, LOGSNR_T, LOGSNR_S)]
  actual = steps.sde_dpm_solver_pp(
    *arrays, x0_prev=jnp.asarray(x0_prev), logsnr_prev=jnp.asarray(LOGSNR_PREV)
  )
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_the_first_step_of_the_sde_is_ancestral(x64):
  z_t, x0, noise, x0_prev = (draw(seed) for seed in range(4))
  levels = jnp.asarray(LOGSNR_T), jnp.asarray(LOGSNR_S)
  ancestral = steps.ancestral(z_t, x0, noise, *levels, gamma=0.0)
  first = steps.sde_dpm_solver_pp(z_t, x0, noise, *levels)
  np.testing.assert_array_equal(first, ancestral)
  from_infinity = steps.sde_dpm_solver_pp(
    z_t, x0, noise, *levels, x0_prev=x0_prev, logsnr_prev=jnp.full(3, -jnp.inf)
  )
  np.testing.assert_allclose(from_infinity, ancestral, rtol=0, atol=1e-12)


def by_predictor_and_corrector(logsnr, z, x0_of):
  """UniPC as it is printed, with a corrected z of its own."""
  half = np.asarray(logsnr) / 2
  alpha, sigma = 1.0 / np.sqrt(1.0 + np.exp([-2 * half, 2 * half]))
  known, ends = [], []
  for i in range(len(half) - 2):
    known.append(x0_of(z, i))
    if i > 0:
      # The step from i - 1 to i again, now that there is an x0 at its end.
      h = half[i] - half[i - 1]
      r, moved = [1.0], [known[i] - known[i - 1]]
      if i > 1:
        r.insert(0, (half[i - 2] - half[i - 1]) / h)
        moved.insert(0, (known[i - 2] - known[i - 1]) / r[0])
      b_h, phi = np.expm1(-h), [np.expm1(-h) / -h - 1]
      phi.append(phi[0] / -h - 0.5)
      rho = [0.5]
      if i > 1:
        b = np.array([phi[0], 2 * phi[1]]) / b_h
        rho = np.linalg.solve(np.vander(r, increasing=True).T, b)
      change = sum(p * d for p, d in zip(rho, moved, strict=True))
      z = sigma[i] / sigma[i - 1] * corrected
      z = z - alpha[i] * b_h * (known[i - 1] + change)
    corrected, h = z, half[i + 1] - half[i]
    mixed = known[i]
    if i > 0:
      r = (half[i - 1] - half[i]) / h
      mixed = mixed + 0.5 * (known[i - 1] - known[i]) / r
    z = sigma[i + 1] / sigma[i] * corrected
    z = z - alpha[i + 1] * np.expm1(-h) * mixed
    ends.append(z)
  return ends


def test_unipc_again_in_float64(x64):
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, 8))
  start, images = np.asarray(draw(0)), [np.asarray(draw(i)) for i in range(9)]

  def x0_of(z, i):
    return np.tanh(z + images[i])

  expected = by_predictor_and_corrector(logsnr, start, x0_of)
  rows = coefficients.table(logsnr, sampler="unipc")
  z, x0, x0_prev = start, 0 * start, 0 * start
  for i in range(6):
    x0_prev2, x0_prev, x0 = x0_prev, x0, x0_of(z, i)
    row = jax.tree.map(lambda x, i=i: x[i], rows)
    now, *images_before = map(jnp.asarray, (x0, x0_prev, x0_prev2))
    before = dict(zip(("x0_prev", "x0_prev2"), images_before, strict=True))
    z = np.asarray(steps.apply(row, jnp.asarray(z), now, **before))
    np.testing.assert_allclose(z, expected[i], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp", "unipc"])
def test_exact_where_x0_never_changes(sampler, x64):
  # With one x0_hat for all times the flow is z_s = alpha_s x0 + sigma_s eps.
  x0, eps = draw(0), draw(1)
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, 8))
  rows = coefficients.table(logsnr, sampler=sampler)
  z = process.q_sample(x0, jnp.broadcast_to(logsnr[0], (3,)), eps)
  for i in range(6):
    row = jax.tree.map(lambda x, i=i: x[i], rows)
    z = steps.apply(row, z, x0, x0_prev=x0, x0_prev2=x0)
    levels = jnp.broadcast_to(logsnr[i + 1], (3,))
    expected = process.q_sample(x0, levels, eps)
    np.testing.assert_allclose(z, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", get_args(coefficients.Sampler))
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_last_step_is_x0(sampler, n):
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, n + 1))
  rows = coefficients.table(logsnr, sampler=sampler, gamma=1.0, eta=1.0)
  assert all(x.shape == (n,) for x in rows)
  assert all(np.all(np.isfinite(x)) for x in rows)
  assert [x[-1].item() for x in rows] == [0.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize(("sampler", "eta"), [
  ("ancestral", 0.0), ("ddim", 0.3), ("ddim", 1.0), ("dpm_solver_pp", 0.0),
  ("sde_dpm_solver_pp", 0.0), ("unipc", 0.0),
])  # fmt: skip
def test_an_x0_that_is_known_keeps_the_law_of_the_process(sampler, eta, n, x64):
  """N(alpha_t x0, sigma_t^2) becomes N(alpha_s x0, sigma_s^2)."""
  logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, n + 1))
  rows = coefficients.table(logsnr, sampler=sampler, eta=eta)
  alpha, sigma = map(np.asarray, schedules.logsnr_to_alpha_sigma(logsnr))
  mean = rows.z * alpha[:-1] + rows.x0 + rows.x0_prev + rows.x0_prev2
  variance = (rows.z * sigma[:-1]) ** 2 + rows.noise**2
  np.testing.assert_allclose(mean[:-1], alpha[1:-1], rtol=1e-9)
  np.testing.assert_allclose(variance[:-1], sigma[1:-1] ** 2, rtol=1e-9)
  noisy = coefficients.draws_noise(sampler, eta=eta)
  assert (np.asarray(rows.noise[:-1]) > 0).all() == noisy
  back = coefficients.looks_back(sampler)
  assert (np.asarray(rows.x0_prev[1:-1]) != 0).all() == (back > 0)
  if n > 3:  # the third step is the first with two before it, and not the last
    assert (np.asarray(rows.x0_prev2[2:-1]) != 0).all() == (back > 1)


def variance_error(sampler: str, n: int, eta: float) -> float:
  """Of data N(0, 1/4), from t = 0.9 to t = 0.1, with the best x0_hat."""
  logsnr = schedules.cosine_logsnr(jnp.linspace(0.9, 0.1, n + 1))
  rows = coefficients.table(
    jnp.append(logsnr, logsnr[-1]), sampler=sampler, eta=eta
  )
  rows, logsnr = jax.tree.map(np.asarray, (rows, logsnr))
  alpha, sigma = 1.0 / np.sqrt(1.0 + np.exp([-logsnr, logsnr]))
  variance = alpha**2 / 4 + sigma**2
  # z and x0 are linear in the first z and the n noises, a column each.
  columns = np.eye(n + 1)
  z, x0, x0_prev = np.sqrt(variance[0]) * columns[0], 0.0, 0.0
  for i in range(n):
    x0_prev2, x0_prev, x0 = x0_prev, x0, alpha[i] / 4 / variance[i] * z
    z = rows.z[i] * z + rows.x0[i] * x0 + rows.x0_prev[i] * x0_prev
    z = z + rows.x0_prev2[i] * x0_prev2
    z = z + rows.noise[i] * columns[i + 1]
  return abs(z @ z - variance[-1])


@pytest.mark.parametrize(("sampler", "eta", "order"), [
  ("ancestral", 0.0, 1), ("ddim", 0.0, 1), ("ddim", 0.5, 1), ("ddim", 1.0, 1),
  ("dpm_solver_pp", 0.0, 2), ("sde_dpm_solver_pp", 0.0, 2),
  ("unipc", 0.0, 3),
])  # fmt: skip
def test_twice_the_steps_take_the_error_to_its_order(sampler, eta, order, x64):
  few, many = (variance_error(sampler, n, eta) for n in (64, 128))
  np.testing.assert_allclose(few / many, 2**order, rtol=0.1)


@pytest.mark.parametrize(
  ("second", "first"),
  [
    ("dpm_solver_pp", "ddim"),
    ("sde_dpm_solver_pp", "ancestral"),
  ],
)
def test_the_second_order_is_more_exact_than_the_first(second, first, x64):
  errors_of_16 = [variance_error(name, 16, 0.0) for name in (second, first)]
  assert errors_of_16[0] < 0.2 * errors_of_16[1]


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
    coefficients.check_sampler("euler")
  with pytest.raises(errors.BadInput, match="both x0_prev and logsnr_prev"):
    steps.dpm_solver_pp(z_t, z_t, levels, levels, x0_prev=z_t)
  with pytest.raises(errors.BadInput, match="both x0_prev and logsnr_prev"):
    steps.sde_dpm_solver_pp(z_t, z_t, z_t, levels, levels, x0_prev=z_t)
  with pytest.raises(errors.BadInput, match="eta is 0.5; give noise where"):
    steps.ddim(z_t, z_t, levels, levels, eta=0.5)
  with pytest.raises(
    errors.BadInput, match=r"eta is nan; .* \[0, 1\]: 0 draws"
  ):
    steps.ddim(z_t, z_t, levels, levels, eta=float("nan"), noise=z_t)
