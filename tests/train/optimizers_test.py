"""Groups by rules, weight decay, and what a rule may not be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.train import optimizers

RULES = (("text/.*", 0.0), (".*/bias", 0.1), (".*", 1.0))
PARAMS = {
  "text": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
  "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
}


def one_step(rule, grads=None):
  grads = jax.tree.map(jnp.ones_like, PARAMS) if grads is None else grads
  updates, _ = rule.update(grads, rule.init(PARAMS), PARAMS)
  return tree.flatten(updates)


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_a_factor_scales_and_zero_freezes(name):
  plain = one_step(optimizers.make(name, lambda _: 0.5))
  ruled = one_step(optimizers.make(name, lambda _: 0.5, rules=RULES))
  factors = {"text/kernel": 0, "text/bias": 0, "head/bias": 0.1}
  for leaf, update in ruled.items():
    expected = factors.get(leaf, 1) * plain[leaf]
    np.testing.assert_allclose(update, expected, rtol=1e-4)
  assert np.abs(plain["text/kernel"]).min() > 0


def test_the_frozen_have_no_state_and_no_part_in_the_norm():
  rule = optimizers.make("adam", lambda _: 1.0, eps=1.0, rules=RULES)
  names = tree.flatten(rule.init(PARAMS))
  assert not [name for name in names if "text" in name]
  assert [name for name in names if "head" in name]
  loud = jax.tree.map(jnp.ones_like, PARAMS)
  loud["text"]["kernel"] = jnp.full((2, 2), jnp.nan)
  quiet = one_step(rule)
  for name, update in one_step(rule, loud).items():
    np.testing.assert_array_equal(update, quiet[name])


def test_the_first_rule_that_fits_holds():
  found = optimizers.factors(PARAMS, RULES)
  assert found == {
    "text/kernel": 0.0,
    "text/bias": 0.0,
    "head/bias": 0.1,
    "head/kernel": 1.0,
  }


def test_what_is_left_over_on_either_side_is_named():
  rules = (("text/.*", 0.0), ("tail/.*", 1.0), ("text/bias", 1.0))
  rule = optimizers.make("adam", lambda _: 1.0, rules=rules)
  with pytest.raises(
    errors.BadInput, match=r"2 param.*head/.*2 rules.*'tail/\.\*', 'text/bias'"
  ):
    rule.init(PARAMS)


def test_gradients_of_the_frozen_are_zero():
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  frozen = tree.flatten(optimizers.freeze(grads, RULES))
  assert frozen["text/kernel"].sum() == 0 and frozen["head/kernel"].sum() == 4
  assert optimizers.freeze(grads, ()) is grads


def test_adamw_decays_the_kernels_times_the_learning_rate():
  grads = jax.tree.map(jnp.zeros_like, PARAMS)
  rule = optimizers.make("adamw", lambda _: 0.5, weight_decay=0.1)
  updates = one_step(rule, grads)
  np.testing.assert_allclose(updates["head/kernel"], -0.05)
  np.testing.assert_allclose(updates["head/bias"], 0)


def test_adafactor_has_the_defaults_of_optax():
  ours = one_step(optimizers.make("adafactor", lambda _: 0.5, clip_norm=1e9))
  theirs = one_step(optax.adafactor(0.5))
  for name, update in ours.items():
    np.testing.assert_array_equal(update, theirs[name])


def test_adam_has_no_weight_decay():
  with pytest.raises(errors.BadInput, match="use adamw"):
    optimizers.make("adam", lambda _: 1.0, weight_decay=0.1)
