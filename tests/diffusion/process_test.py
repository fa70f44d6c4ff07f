"""q(z_t | x0) and q(z_s | z_t, x0): Bayes, the paper's vector, the ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import process, schedules


def at(t: float) -> jax.Array:
  return schedules.cosine_logsnr(jnp.array([t]))


def value(x: float) -> jax.Array:
  return jnp.full((1, 1, 1, 1), x)


@pytest.mark.parametrize(
  ("gamma", "std"),
  [(0.0, 0.3377976817), (0.3, 0.3465278532), (1.0, 0.3677857873)],
)
def test_the_vector_of_the_reference(gamma, std, x64):
  posterior = process.posterior(
    value(0.7), value(0.2), at(0.5), at(0.45), gamma=gamma
  )
  mean = 0.5902569629632507
  np.testing.assert_allclose(posterior.mean, value(mean), rtol=0, atol=1e-9)
  np.testing.assert_allclose(posterior.std, [std], rtol=0, atol=1e-9)


def test_the_coefficients_of_the_reference(x64):
  alpha_s, sigma_s = schedules.logsnr_to_alpha_sigma(at(0.45))
  scale = process.posterior_coefficients(at(0.5), at(0.45), gamma=0.0)
  actual = [x.item() for x in (alpha_s, sigma_s, scale.z, scale.x0)]
  expected = [0.7604030171, 0.6494515006, 0.7844488228, 0.2057139350]
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_bayes_again_in_float64(x64):
  # The small posterior is q(z_s | x0) q(z_t | z_s) / q(z_t | x0): the
  # product of two Gaussians in z_s.
  logsnr_t, logsnr_s = np.array([-19.0, -3.0, 1.0]), np.array([-7.0, -2.9, 9.0])
  alpha_t, alpha_s = (
    np.sqrt(1.0 / (1.0 + np.exp(-x))) for x in (logsnr_t, logsnr_s)
  )
  var_t, var_s = 1.0 - alpha_t**2, 1.0 / (1.0 + np.exp(logsnr_s))
  step = alpha_t / alpha_s
  var_step = var_t - step**2 * var_s
  precision = 1.0 / var_s + step**2 / var_step
  mean = (alpha_s * 0.2 / var_s + step * 0.7 / var_step) / precision
  levels = jnp.asarray(logsnr_t), jnp.asarray(logsnr_s)
  images = [jnp.full((3, 1, 1, 1), x) for x in (0.7, 0.2)]
  small = process.posterior(*images, *levels, gamma=0.0)
  np.testing.assert_allclose(small.mean.ravel(), mean, rtol=0, atol=1e-9)
  np.testing.assert_allclose(small.std**2, 1.0 / precision, rtol=1e-9)
  large = process.posterior(*images, *levels, gamma=1.0)
  np.testing.assert_allclose(large.std**2, var_step, rtol=1e-9)


def test_two_steps_of_noise_are_one(x64):
  # Marginals agree: a posterior draw from z_t ~ q(z_t | x0) is q(z_s | x0).
  logsnr_t, logsnr_s = at(0.8), at(0.3)
  alpha_t, sigma_t = schedules.logsnr_to_alpha_sigma(logsnr_t)
  alpha_s, sigma_s = schedules.logsnr_to_alpha_sigma(logsnr_s)
  scale = process.posterior_coefficients(logsnr_t, logsnr_s, gamma=0.0)
  np.testing.assert_allclose(scale.z * alpha_t + scale.x0, alpha_s, rtol=1e-12)
  variance = (scale.z * sigma_t) ** 2 + scale.std**2
  np.testing.assert_allclose(variance, sigma_s**2, rtol=1e-12)
  large = process.posterior_coefficients(logsnr_t, logsnr_s, gamma=1.0)
  assert (scale.z * sigma_t) ** 2 + large.std**2 > sigma_s**2 + 1e-3


def test_close_steps_are_exact_in_float32():
  t = np.linspace(0.0, 1.0, 2001)
  logsnr = -2.0 * np.log(
    np.tan(np.arctan(np.exp(-10)) * (1 - 2 * t) + t * np.pi / 2)
  )
  logsnr32 = jnp.asarray(logsnr, jnp.float32)
  actual = process.posterior_coefficients(
    logsnr32[1:], logsnr32[:-1], gamma=0.0
  )
  exact = np.asarray(logsnr32, np.float64)
  rest = -np.expm1(exact[1:] - exact[:-1])
  alpha_s = np.sqrt(1.0 / (1.0 + np.exp(-exact[:-1])))
  np.testing.assert_allclose(actual.x0, rest * alpha_s, rtol=3e-6)
  sigma_s = np.sqrt(1.0 / (1.0 + np.exp(exact[:-1])))
  np.testing.assert_allclose(actual.std, np.sqrt(rest) * sigma_s, rtol=3e-6)


@pytest.mark.parametrize("name", ["cosine", "linear", "shifted_cosine_1024"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_whole_range_is_finite_in_value_and_gradient(name, gamma):
  schedule = schedules.by_name(name)

  def total(t, s):
    scale = process.posterior_coefficients(
      schedule(t), schedule(s), gamma=gamma
    )
    return scale.z + scale.x0 + scale.std

  times = jnp.array([[1.0, 0.0], [1.0, 0.999], [1e-4, 0.0]])
  values, gradients = jax.vmap(jax.value_and_grad(total, (0, 1)))(
    times[:, 0], times[:, 1]
  )
  assert np.all(np.isfinite(values))
  assert np.all(np.isfinite(gradients))


def test_q_sample_has_the_mean_and_std(x64):
  alpha, sigma = schedules.logsnr_to_alpha_sigma(at(0.3))
  x0 = jnp.full((1, 64, 64, 3), 0.5)
  eps = jax.random.normal(jax.random.key(0), x0.shape, jnp.float64)
  z_t = process.q_sample(x0, at(0.3), eps)
  np.testing.assert_allclose(z_t.mean(), 0.5 * alpha[0], atol=0.02)
  np.testing.assert_allclose(z_t.std(), sigma[0], rtol=0.02)


def test_promotion_and_jit():
  arguments = value(0.7), value(0.2), at(0.5), at(0.45)
  low = [x.astype(jnp.bfloat16) for x in arguments]
  assert process.posterior(*low).mean.dtype == jnp.float32
  assert process.q_sample(low[0], low[2], low[1]).dtype == jnp.float32
  eager, jitted = (
    process.posterior(*arguments),
    jax.jit(process.posterior)(*arguments),
  )
  np.testing.assert_allclose(eager.mean, jitted.mean, rtol=1e-6)
  np.testing.assert_allclose(eager.std, jitted.std, rtol=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_outside(gamma):
  with pytest.raises(errors.BadInput, match=r"gamma is .* in \[0, 1\]"):
    process.posterior(value(0.0), value(0.0), at(0.5), at(0.4), gamma=gamma)
