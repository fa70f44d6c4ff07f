"""EMA, learning rates, and one step, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.train import ema, optimizers
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from tests import tiny_cascade
from tests.train import tiny_run


def test_ema_warms_up_and_then_keeps_its_decay():
  decays = [float(ema.decay_at(jnp.int32(n), 0.99)) for n in (0, 8, 10_000)]
  np.testing.assert_allclose(decays, [0.1, 0.5, 0.99], rtol=1e-6)


def test_ema_is_the_weighted_mean():
  old, new = {"w": jnp.array([1.0])}, {"w": jnp.array([3.0])}
  mean = ema.update(old, new, jnp.float32(0.75))["w"]
  np.testing.assert_allclose(mean, 0.75 * 1 + 0.25 * 3)


def test_learning_rate_warms_up_then_falls_to_zero_or_stays():
  options = {"warmup_steps": 10, "total_steps": 110}
  cosine = optimizers.learning_rate_schedule(2.0, decay="cosine", **options)
  constant = optimizers.learning_rate_schedule(2.0, **options)
  at = [0, 5, 10, 60, 110]
  np.testing.assert_allclose(
    [cosine(n) for n in at], [0, 1, 2, 1, 0], atol=1e-6
  )
  np.testing.assert_allclose([constant(n) for n in at], [0, 1, 2, 2, 2])


def test_clipping_bounds_the_first_update_of_sgd_like_rules():
  rule = optimizers.make("adam", lambda _: 1.0, clip_norm=1e-3, eps=1.0)
  grads = {"w": jnp.array([3.0, 4.0])}
  updates, _ = rule.update(grads, rule.init(grads), grads)
  # Clipped to norm 1e-3, then Adam with a large eps: about -grad.
  np.testing.assert_allclose(updates["w"], [-6e-4, -8e-4], rtol=2e-3)


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_both_optimisers_of_the_paper_lower_a_quadratic(name):
  rule = optimizers.make(name, lambda _: 0.1)
  params = {"w": jnp.array([1.0, -2.0])}
  state = rule.init(params)
  for _ in range(100):
    grads = jax.tree.map(lambda w: 2 * w, params)
    updates, state = rule.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert np.abs(params["w"]).max() < 0.5


def test_unknown_names_list_the_known_ones():
  optimizers.check("adam", "cosine")
  with pytest.raises(errors.BadInput, match="'lion'.*adam, adamw, adafactor"):
    optimizers.check("lion", "cosine")
  with pytest.raises(errors.BadInput, match="'linear'.*constant, cosine"):
    optimizers.check("adam", "linear")


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_loss_is_one_and_steps_lower_it(index):
  config = tiny_cascade.stage_configs(8)[index]
  stage = build.stage(config | {"prediction": "eps", "weighting": "eps"})
  rule = optimizers.make("adam", lambda _: 3e-3)
  params = stage_lib.init(stage, jax.random.key(0))
  state = state_lib.create(params, rule)
  b, side = 8, stage.resolution
  batch = {
    "image": jnp.zeros((b, side, side, 3)),
    "text_emb": jnp.ones((b, 4, 8)),
    "text_mask": jnp.ones((b, 4), bool),
  }
  if stage.low_resolution:
    batch["x_lr"] = jnp.zeros((b, 16, 16, 3))
  step = jax.jit(step_lib.make_train_step(stage, rule, ema_decay=0.9))
  losses = []
  for _ in range(12):
    state, metrics = step(state, batch, jax.random.key(1))
    losses.append(float(metrics["loss"]))
  # Mean of b * side^2 * 3 squares of unit normals: deviation sqrt(2 / n).
  n = b * side * side * 3
  assert abs(losses[0] - 1) < 5 * (2 / n) ** 0.5
  assert losses[-1] < 0.9
  assert int(state.step) == 12


def test_a_non_finite_step_leaves_every_leaf_as_it_was():
  stage, rule = tiny_run.STAGE, tiny_run.RULE
  state = state_lib.create(stage_lib.init(stage, jax.random.key(0)), rule)
  batch = {
    "image": jnp.full((2, 16, 16, 3), jnp.nan),
    "text_emb": jnp.ones((2, 4, 8)),
    "text_mask": jnp.ones((2, 4), bool),
  }
  step = jax.jit(step_lib.make_train_step(stage, rule, ema_decay=0.9))
  after, metrics = step(state, batch, jax.random.key(1))
  assert not np.isfinite(metrics["loss"])
  pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
  assert all(np.array_equal(a, b) for a, b in pairs)
