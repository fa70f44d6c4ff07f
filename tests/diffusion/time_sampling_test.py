"""Times: in range, the right distribution, stratified."""

import jax
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import time_sampling

NAMES = ("uniform", "stratified", "logit_normal")


@pytest.mark.parametrize("name", NAMES)
def test_range_shape_and_key(name):
  draw = time_sampling.by_name(name)
  t = draw(jax.random.key(0), 1000)
  assert t.shape == (1000,)
  assert t.dtype == np.float32
  assert np.all((np.asarray(t) >= 0.0) & (np.asarray(t) <= 1.0))
  np.testing.assert_array_equal(t, draw(jax.random.key(0), 1000))
  assert np.any(np.asarray(t) != np.asarray(draw(jax.random.key(1), 1000)))


@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_uniform_quantiles(name):
  t = np.asarray(time_sampling.by_name(name)(jax.random.key(0), 10_000))
  quantiles = np.quantile(t, [0.1, 0.5, 0.9])
  np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.02)


def test_stratified_has_one_in_each_stratum_in_random_order():
  t = np.asarray(time_sampling.stratified(jax.random.key(0), 64))
  np.testing.assert_array_equal(np.sort(np.floor(t * 64)), np.arange(64))
  assert np.any(np.diff(t) < 0.0)
  uniform = np.asarray(time_sampling.uniform(jax.random.key(0), 64))
  assert np.unique(np.floor(uniform * 64)).size < 64


def test_logit_normal_moments():
  t = time_sampling.logit_normal(jax.random.key(0), 20_000, mean=0.5, std=2.0)
  logit = np.log(np.asarray(t)) - np.log1p(-np.asarray(t))
  np.testing.assert_allclose(logit.mean(), 0.5, atol=0.06)
  np.testing.assert_allclose(logit.std(), 2.0, atol=0.05)


def test_bad_input():
  with pytest.raises(errors.BadInput, match="uniform, stratified, logit"):
    time_sampling.by_name("normal")
  with pytest.raises(errors.BadInput, match="std is 0.0"):
    time_sampling.logit_normal(jax.random.key(0), 2, std=0.0)
