"""What is wrong in a config is named: the field, its value, what it may be."""

import copy
import math

import pytest

from configs import demo
from imagen_jax import build
from imagen_jax.core import errors
from imagen_jax.train import preflight

DEMO = build.plain(demo.get_config("base,runlocal"))
NUMBERS = (
  *preflight._AT_LEAST,
  *preflight._POSITIVE,
  *preflight._BELOW_ONE,
  *preflight._SHARES,
)


def changed(name, value):
  """The demo's config with another value of a field that it has."""
  config = copy.deepcopy(DEMO)
  *parents, last = name.split(".")
  node = config
  for parent in parents:
    node = node[parent]
  assert last in node, name
  node[last] = value
  return config


@pytest.mark.parametrize("arg", ["base", "sr", "base,gpu", "sr,gpu"])
def test_the_demo_is_right(arg, tmp_path):
  preflight.check(build.plain(demo.get_config(arg)), tmp_path)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, None, "1"])
def test_numbers_have_a_range(name, value, tmp_path):
  with pytest.raises(errors.BadInput, match=f"{name}' is .*it must be") as info:
    preflight.check(changed(name, value), tmp_path)
  assert repr(value) in str(info.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_in_it(name, tmp_path):
  least = preflight._AT_LEAST.get(name, 1e-9)
  config = changed(name, least)
  config["train"]["batch_size"] = 1
  preflight.check(config, tmp_path)
  shut = {"optimizer.b1": 1, "optimizer.b2": 1, "train.ema_decay": 1}
  shut |= dict.fromkeys(preflight._POSITIVE, 0)
  if name in shut:
    with pytest.raises(errors.BadInput, match=name):
      preflight.check(changed(name, shut[name]), tmp_path)


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("stage.dtype", "float31", "one of float32, bfloat16, float16"),
    ("start.which", "emma", "one of ema, raw"),
    ("optimizer.decayed", "(", "no regular expression"),
    ("optimizer.rules", (("*", 1.0),), "no regular expression"),
    ("optimizer.rules", ("a", "b"), "'a'; each rule is a pattern and"),
    ("optimizer.rules", ((".*", -1.0),), "each rule is a pattern and"),
    ("optimizer.rules", ((".*", "fast"),), "each rule is a pattern and"),
    ("start.fresh", ("[",), "no regular expression"),
    (
      "train.micro_batches",
      3,
      "8 is not divisible by .* 3; use a batch of 6 or 9",
    ),
    ("train.micro_batches", 16, "not divisible by .* 16; use a batch of 16"),
  ],
)
def test_other_fields_say_what_they_may_be(name, value, message, tmp_path):
  with pytest.raises(errors.BadInput, match=message):
    preflight.check(changed(name, value), tmp_path)


def test_a_field_that_lacks_is_not_wrong(tmp_path):
  preflight.check({}, tmp_path)
  preflight.check({"train": {"steps": 1}}, tmp_path)


def test_a_source_is_needed_by_a_run_that_begins(tmp_path):
  config = changed("start.source", str(tmp_path / "gone"))
  with pytest.raises(errors.BadInput, match="nothing to start from"):
    preflight.check(config, tmp_path)
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  preflight.check(config, tmp_path)
