"""Parameters that are numbers and move, and those that do not."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.core import errors
from imagen_jax.health import params
from imagen_jax.train import ema as ema_lib

START = {"a": {"kernel": jnp.ones((4, 3))}, "b": jnp.zeros(5)}
RAW = jax.tree.map(lambda x: x + 1.0, START)


def between(share):
  """So far from the start to the raw parameters."""
  return jax.tree.map(lambda s, r: s + share * (r - s), START, RAW)


def learned(raw, ema, step=10):
  found = params.learned(raw, ema, START, step)
  return {finding.check: finding for finding in found}


def test_what_is_not_finite_is_named():
  assert params.finite(RAW, "raw", 7).level == "ok"
  bad = RAW | {"b": RAW["b"].at[3].set(jnp.nan)}
  found = params.finite(bad, "EMA", 7)
  assert found.level == "problem" and found.error is errors.NonFinite
  assert found.check == "EMA finite" and "step 7 are not: b" in found.said


def test_an_average_that_follows_is_well():
  found = learned(RAW, between(0.9))
  assert {finding.level for finding in found.values()} == {"ok"}
  assert found["EMA follows"].said.startswith("10%")


def test_parameters_that_did_not_move_are_a_problem():
  found = learned(START, START)["raw moved"]
  assert found.level == "problem" and "learning_rate" in found.remedy
  assert not learned(START, START, step=0)


@pytest.mark.parametrize(
  ("share", "level", "said"),
  [
    (0.0, "problem", "it was never updated"),
    (0.2, "warning", "80% of the way behind"),
    (1.0, "warning", "nothing is averaged"),
  ],
)
def test_an_average_that_does_not_follow(share, level, said):
  found = learned(RAW, between(share))["EMA follows"]
  assert found.level == level and said in found.said and "decay" in found.remedy


def test_the_average_of_a_walk_is_not_far_behind():
  key, ema, raw = jax.random.key(0), START, START
  for n in range(100):
    steps = jax.random.normal(jax.random.fold_in(key, n), (5,))
    raw = jax.tree.map(lambda x, s=steps[0]: x + 0.1 + 0.1 * s, raw)
    ema = ema_lib.update(ema, raw, ema_lib.decay_at(jnp.int32(n), 0.9999))
  assert learned(raw, ema, 100)["EMA follows"].level == "ok"
