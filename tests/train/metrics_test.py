"""Losses by noise level, and the means of a window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import losses
from imagen_jax.train import metrics


def draw(seed, b=64, spread=15.0):
  key = np.random.default_rng(seed)
  loss = jnp.asarray(key.gamma(1.0, 1.0, b), jnp.float32)
  logsnr = jnp.asarray(key.uniform(-spread, spread, b), jnp.float32)
  return losses.Loss(loss, loss, logsnr)


def pairs(loss, by_logsnr=metrics.by_logsnr):
  """[bins, (sum, count)]"""
  return np.asarray(by_logsnr(loss)[metrics.BINS])


def take(loss, rows):
  return jax.tree.map(lambda x: x[rows], loss)


def test_bins_of_two_halves_add_up_to_the_bins_of_the_whole():
  loss = draw(0)
  first, second = (pairs(take(loss, np.arange(64) % 2 == i)) for i in (0, 1))
  np.testing.assert_allclose(first + second, pairs(loss), rtol=1e-5)
  assert not np.allclose(first, pairs(loss))


def test_every_example_is_in_one_bin_whatever_its_noise():
  loss = draw(1, spread=60.0)
  total, count = pairs(loss).sum(axis=0)
  assert count == 64
  np.testing.assert_allclose(total, loss.per_example.sum(), rtol=1e-5)


def test_bins_do_not_depend_on_the_order_of_examples():
  loss = draw(2)
  order = np.random.default_rng(0).permutation(64)
  np.testing.assert_allclose(pairs(loss), pairs(take(loss, order)), rtol=1e-5)
  mixed = loss._replace(logsnr=loss.logsnr[order])
  assert not np.allclose(pairs(loss), pairs(mixed), rtol=1e-2)


def test_bins_are_those_of_numpy_in_float64():
  loss = draw(3, b=500, spread=19.0)
  edges = np.asarray(metrics.EDGES, np.float64)
  value, logsnr = (
    np.asarray(x, np.float64) for x in (loss.per_example, loss.logsnr)
  )
  total, _ = np.histogram(logsnr, edges, weights=value)
  count, _ = np.histogram(logsnr, edges)
  found = pairs(loss)
  np.testing.assert_allclose(found[:, 0], total, rtol=1e-5)
  np.testing.assert_array_equal(found[:, 1], count)


def test_an_edge_belongs_to_the_bin_above_it():
  edges = jnp.asarray(metrics.EDGES, jnp.float32)
  ones = jnp.ones(edges.size)
  count = pairs(losses.Loss(ones, ones, edges))[:, 1]
  np.testing.assert_array_equal(count, [1] * 9 + [2])


def test_a_nan_spoils_its_own_bin_alone():
  loss = jnp.array([jnp.nan, 2.0])
  found = pairs(losses.Loss(loss, loss, jnp.array([-1.0, 1.0])))
  assert np.isnan(found).sum() == 1
  assert found[metrics.EDGES.index(0), 0] == 2.0


def test_a_window_weighs_examples_not_steps():
  drawn = [draw(0, b=8), draw(5, b=64)]
  window = jax.device_get([metrics.by_logsnr(loss) for loss in drawn])
  row = metrics.summarize(window)
  value, logsnr = (
    np.concatenate([getattr(loss, name) for loss in drawn]).astype(np.float64)
    for name in ("per_example", "logsnr")
  )
  for name, low in zip(metrics.bin_names(), metrics.EDGES[:-1], strict=True):
    inside = (logsnr >= low) & (logsnr < low + 4)
    if inside.any():
      np.testing.assert_allclose(row[name], value[inside].mean(), rtol=1e-5)
    else:
      assert name not in row
  assert len(row) < 10  # some bin had no example


def test_floats_are_averaged_and_integers_are_the_newest():
  window = [
    {"loss": np.float32(1.0), "skipped": np.int32(4)},
    {"loss": np.float32(4.0), "skipped": np.int32(5)},
  ]
  assert metrics.summarize(window) == {"loss": 2.5, "skipped": 5}
  assert metrics.summarize(window[:1]) == {"loss": 1.0, "skipped": 4}


def test_jit_changes_nothing():
  loss = draw(7)
  jitted = pairs(loss, jax.jit(metrics.by_logsnr))
  np.testing.assert_allclose(jitted, pairs(loss), rtol=1e-6)


@pytest.mark.parametrize("devices", [2, 8])
def test_bins_of_a_batch_over_devices_are_those_of_one(devices):
  loss = draw(8)
  mesh = jax.make_mesh((devices,), ("batch",))
  spread = jax.device_put(loss, jax.NamedSharding(mesh, jax.P("batch")))
  found = pairs(spread, jax.jit(metrics.by_logsnr))
  np.testing.assert_allclose(found, pairs(loss), rtol=1e-5)


def test_names_say_their_range():
  assert metrics.bin_names()[4] == "loss/logsnr_-4_0"
  assert len(metrics.bin_names()) == 10
