"""Schedules: ends, round trips, the paper's table, float64 re-derivation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import schedules

NAMES = ("cosine", "linear", "shifted_cosine_256")

# t, cosine cut at 20, interpolated linear; four printed decimals.
TABLE = np.array(
  [
    [0.0, 20.0, 9.2102],
    [0.001, 12.8555, 8.4229],
    [0.01, 8.3014, 6.1216],
    [0.05, 5.0831, 3.4763],
    [0.1, 3.6850, 2.1464],
    [0.2, 2.2482, 0.6494],
    [0.25, 1.7626, 0.0884],
    [0.3, 1.3485, -0.4275],
    [0.5, 0.0, -2.4672],
    [0.75, -1.7626, -5.6991],
    [0.9, -3.6850, -8.1995],
    [0.99, -8.3014, -9.9168],
    [1.0, -20.0, -10.1177],
  ]
)


def cosine_again(t: np.ndarray) -> np.ndarray:
  start = np.arctan(np.exp(-10.0))
  slope = np.arctan(np.exp(10.0)) - start
  return -2.0 * np.log(np.tan(slope * t + start))


def linear_again(t: np.ndarray) -> np.ndarray:
  product = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
  logits = np.log(product / (1.0 - product))
  return np.interp(t, np.linspace(0.0, 1.0, 1000), logits)


AGAIN = {
  "cosine": cosine_again,
  "linear": linear_again,
  "shifted_cosine_256": lambda t: cosine_again(t) - 2.0 * np.log(4.0),
}


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_are_finite_in_value_and_gradient(name):
  schedule = schedules.by_name(name)
  t = jnp.array([0.0, 1e-7, 0.5, 1.0 - 1e-7, 1.0])
  value, tangent = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
  assert np.all(np.isfinite(value))
  assert np.all(np.isfinite(tangent))
  assert np.all(np.asarray(tangent) < 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_falls_in_t(name):
  logsnr = np.asarray(schedules.by_name(name)(jnp.linspace(0.0, 1.0, 1001)))
  assert np.all(np.diff(logsnr) < 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_returns_t(name, x64):
  t = jnp.linspace(0.0, 1.0, 777)
  again = schedules.inverse_by_name(name)(schedules.by_name(name)(t))
  np.testing.assert_allclose(again, t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_in_float32(name):
  t = jnp.linspace(0.0, 1.0, 101)
  again = schedules.inverse_by_name(name)(schedules.by_name(name)(t))
  np.testing.assert_allclose(again, t, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_clips_what_the_schedule_never_gives(name):
  ends = schedules.inverse_by_name(name)(jnp.array([99.0, -99.0]))
  np.testing.assert_array_equal(ends, [0.0, 1.0])


def test_alpha_and_sigma_are_on_the_circle_and_return(x64):
  logsnr = jnp.linspace(-25.0, 25.0, 401)
  alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=0, atol=1e-14)
  again = schedules.alpha_sigma_to_logsnr(alpha, sigma)
  np.testing.assert_allclose(again, logsnr, rtol=0, atol=1e-12)


def test_alpha_and_sigma_at_infinity_have_finite_gradients():
  logsnr = jnp.array([jnp.inf, -jnp.inf, 200.0, -200.0])
  (alpha, sigma), tangents = jax.jvp(
    schedules.logsnr_to_alpha_sigma, (logsnr,), (jnp.ones(4),)
  )
  np.testing.assert_array_equal(alpha, [1.0, 0.0, 1.0, jnp.exp(-100.0)])
  np.testing.assert_array_equal(sigma, [0.0, 1.0, jnp.exp(-100.0), 1.0])
  assert np.all(np.isfinite(tangents))


@pytest.mark.parametrize(("name", "column"), [("cosine", 1), ("linear", 2)])
def test_the_printed_table(name, column, x64):
  logsnr = schedules.by_name(name)(jnp.asarray(TABLE[:, 0]))
  np.testing.assert_allclose(logsnr, TABLE[:, column], rtol=0, atol=5.1e-5)


def test_the_printed_table_can_fail(x64):
  logsnr = schedules.cosine_logsnr(jnp.asarray(TABLE[:, 0]), logsnr_max=19.0)
  assert np.max(np.abs(logsnr - TABLE[:, 1])) > 5.1e-5


@pytest.mark.parametrize("name", NAMES)
def test_rederivation_in_float64(name, x64):
  t = np.linspace(0.0, 1.0, 1234)
  logsnr = schedules.by_name(name)(jnp.asarray(t))
  assert logsnr.dtype == jnp.float64
  np.testing.assert_allclose(logsnr, AGAIN[name](t), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64_everywhere(name):
  # The textbook -2 log tan(.) is wrong by 5e-3 at t = 1 in float32.
  t = np.linspace(0.0, 1.0, 1234, dtype=np.float32)
  logsnr = schedules.by_name(name)(jnp.asarray(t))
  expected = AGAIN[name](t.astype(np.float64))
  np.testing.assert_allclose(logsnr, expected, rtol=0, atol=1e-5)


def test_discrete_ends_of_the_linear_betas():
  logsnr = schedules.discrete_logsnr(schedules.linear_betas())
  product = 1.0 / (1.0 + np.exp(-logsnr))
  np.testing.assert_allclose(product[0], 0.9999, rtol=1e-12)
  np.testing.assert_allclose(product[-1], 4.0358e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_and_promotes_bfloat16(name):
  schedule = schedules.by_name(name)
  for shape in ((), (2, 3)):
    t = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    logsnr = jax.eval_shape(schedule, t)
    assert logsnr.shape == shape
    assert logsnr.dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
def test_jit_equals_no_jit(name):
  schedule = schedules.by_name(name)
  t = jnp.linspace(0.0, 1.0, 33)
  np.testing.assert_allclose(jax.jit(schedule)(t), schedule(t), atol=4e-6)


def test_equal_names_are_one_object():
  name = "shifted_cosine_128"
  assert schedules.by_name(name) is schedules.by_name(name)
  assert schedules.by_name(name) is not schedules.inverse_by_name(name)


@pytest.mark.parametrize("name", ["Cosine", "shifted_cosine_", "sigmoid"])
def test_unknown_name_lists_the_alternatives(name):
  with pytest.raises(
    errors.BadInput, match="cosine, linear, cosine_1000 or shifted"
  ):
    schedules.by_name(name)


@pytest.mark.parametrize("t", [-0.001, 1.001, float("nan")])
@pytest.mark.parametrize("name", NAMES)
def test_t_outside_the_unit_interval(name, t):
  with pytest.raises(errors.BadInput, match=r"t is .*must be in \[0, 1\]"):
    schedules.by_name(name)(jnp.array([0.5, t]))


def test_bad_numbers():
  with pytest.raises(errors.BadInput, match="must be below"):
    schedules.cosine_logsnr(jnp.zeros(1), logsnr_min=5.0, logsnr_max=-5.0)
  with pytest.raises(errors.BadInput, match="at least 2"):
    schedules.linear_betas(1)
  shifted = functools.partial(schedules.shifted_cosine_logsnr, resolution=0)
  with pytest.raises(errors.BadInput, match="at least 1"):
    shifted(jnp.zeros(1))
