"""The loss: 1 for a zero network, 0 for an oracle, formulas in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import (
  losses,
  parameterization,
  schedules,
  time_sampling,
  weighting,
)

SHAPE = (64, 8, 8, 3)


def images(dtype: jnp.dtype = jnp.float32) -> jax.Array:
  uniform = np.random.default_rng(0).uniform(-1.0, 1.0, size=SHAPE)
  return jnp.asarray(uniform, dtype)


def normal(shape: tuple[int, ...]) -> jax.Array:
  """Float64 under the x64 fixture, else float32."""
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), float)


def zero_network(z_t, logsnr, cond):
  return jnp.zeros_like(z_t)


def test_a_zero_network_that_predicts_eps_has_loss_one():
  loss = losses.diffusion_loss(
    zero_network,
    images(),
    {},
    jax.random.key(0),
    schedule=schedules.cosine_logsnr,
  )
  assert loss.per_example.shape == loss.logsnr.shape == (64,)
  # eps^2 has variance 2; four standard errors over 12,288 values.
  error = 4.0 * np.sqrt(2.0 / np.prod(SHAPE))
  np.testing.assert_allclose(loss.per_example.mean(), 1.0, atol=error)
  np.testing.assert_array_equal(loss.per_example, loss.mse)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_a_network_that_knows_x0_has_loss_zero(prediction):
  x0 = images()

  def oracle(z_t, logsnr, cond):
    eps = parameterization.from_x0(x0, z_t, logsnr).eps
    return parameterization.target(x0, eps, logsnr, prediction=prediction)

  loss = losses.diffusion_loss(
    oracle,
    x0,
    {},
    jax.random.key(0),
    schedule=schedules.linear_logsnr,
    prediction=prediction,
  )
  # float32 error of eps is 1e-7 / sigma and sigma is 0.01 or more.
  np.testing.assert_allclose(loss.mse, 0.0, atol=1e-8)


@pytest.mark.parametrize(
  ("prediction", "name"),
  itertools.product(("x0", "eps", "v"), ("eps", "v", "min_snr")),
)
def test_the_weighted_error_again_in_float64(prediction, name, x64):
  x0 = images(jnp.float64)[:4]
  eps = normal(x0.shape)
  logsnr = np.array([-9.0, -1.0, 1.0, 9.0])
  actual = losses.loss_at(
    lambda z_t, logsnr, cond: jnp.tanh(z_t),
    x0,
    {},
    jnp.asarray(logsnr),
    eps,
    prediction=prediction,
    weighting=name,
  )
  alpha = np.sqrt(1.0 / (1.0 + np.exp(-logsnr))).reshape(4, 1, 1, 1)
  sigma = np.sqrt(1.0 / (1.0 + np.exp(logsnr))).reshape(4, 1, 1, 1)
  x, e = np.asarray(x0), np.asarray(eps)
  output = np.tanh(alpha * x + sigma * e)
  target = {"x0": x, "eps": e, "v": alpha * e - sigma * x}[prediction]
  snr = np.exp(logsnr)
  on_x0 = {"eps": snr, "v": snr + 1.0, "min_snr": np.minimum(snr, 5.0)}[name]
  own = {"x0": 1.0, "eps": snr, "v": snr + 1.0}[prediction]
  expected = on_x0 / own * np.square(output - target).mean(axis=(1, 2, 3))
  assert actual.per_example.dtype == jnp.float64
  np.testing.assert_allclose(actual.per_example, expected, rtol=1e-9)


def test_one_objective_in_three_predictions(x64):
  # The same x0_hat has the same weighted loss however the network says it.
  x0, logsnr = images(jnp.float64)[:4], jnp.array([-5.0, 0.0, 2.0, 6.0])
  eps = normal(x0.shape)

  def loss_of(prediction):
    def network(z_t, logsnr, cond):
      return parameterization.convert(
        jnp.tanh(z_t), z_t, logsnr, source="x0", destination=prediction
      )

    return losses.loss_at(
      network,
      x0,
      {},
      logsnr,
      eps,
      prediction=prediction,
      weighting="truncated_snr",
    ).per_example

  np.testing.assert_allclose(loss_of("eps"), loss_of("x0"), rtol=1e-9)
  np.testing.assert_allclose(loss_of("v"), loss_of("x0"), rtol=1e-9)


def test_the_network_sees_the_cond_and_the_level_of_each_example():
  seen = {}

  def network(z_t, logsnr, cond):
    seen.update(z_t=z_t, logsnr=logsnr, cond=cond)
    return z_t

  cond = {"text_emb": jnp.ones((64, 2, 3))}
  loss = losses.diffusion_loss(
    network,
    images(),
    cond,
    jax.random.key(0),
    schedule=schedules.cosine_logsnr,
    sample_time=time_sampling.stratified,
  )
  assert seen["cond"] is cond
  np.testing.assert_array_equal(seen["logsnr"], loss.logsnr)
  assert np.unique(np.asarray(loss.logsnr)).size == 64


def test_bfloat16_is_promoted_and_jit_agrees():
  def loss(x0):
    return losses.diffusion_loss(
      lambda z_t, logsnr, cond: z_t.astype(jnp.bfloat16),
      x0,
      {},
      jax.random.key(0),
      schedule=schedules.cosine_logsnr,
    ).per_example

  x0 = images().astype(jnp.bfloat16)
  eager, jitted = loss(x0), jax.jit(loss)(x0)
  assert eager.dtype == jnp.float32
  np.testing.assert_allclose(eager, jitted, rtol=2e-2, atol=1e-4)


def test_gradient_is_finite_at_every_time():
  def loss(scale, t):
    logsnr = schedules.cosine_logsnr(t)
    x0 = images()[:3]
    eps = normal(x0.shape)
    return jnp.sum(
      losses.loss_at(
        lambda z_t, logsnr, cond: scale * z_t,
        x0,
        {},
        logsnr,
        eps,
        prediction="v",
        weighting="min_snr",
      ).per_example
    )

  times = jnp.array([0.0, 0.5, 1.0])
  gradient = jax.jit(jax.grad(loss))(jnp.ones(()), times)
  assert np.isfinite(gradient)


def test_weighting_names_are_checked():
  with pytest.raises(ValueError, match="use one of eps, x0, v"):
    weighting.check_weighting("snr")
