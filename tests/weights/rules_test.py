"""Rules: total accounting, and a list of what does not fit."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.weights import rules, tensors

RULES = (
  rules.Rule(r"pooler\..*", None),
  rules.Rule(r"layer\.(\d+)\.weight", r"layer_\1/kernel", rules.transpose),
  rules.Rule(r"layer\.(\d+)\.bias", r"layer_\1/bias"),
)


def arrays():
  return {
    "layer.0.weight": np.arange(6.0).reshape(2, 3),
    "layer.0.bias": np.array([1.0, 2.0]),
    "pooler.weight": np.zeros(4),
  }


SHAPES = {"layer_0/kernel": (3, 2), "layer_0/bias": (2,)}


def fails(source, shapes=SHAPES, table=RULES):
  with pytest.raises(errors.CheckpointError) as caught:
    rules.apply(table, source, shapes, what="file.safetensors")
  return str(caught.value)


def test_every_tensor_arrives_once():
  result = rules.apply(RULES, arrays(), SHAPES)
  assert result.keys() == SHAPES.keys()
  np.testing.assert_array_equal(
    result["layer_0/kernel"], np.arange(6.0).reshape(2, 3).T
  )
  np.testing.assert_array_equal(result["layer_0/bias"], [1.0, 2.0])


def test_the_first_rule_that_matches_takes_it():
  table = (rules.Rule(r"layer\.0\.bias", None), *RULES)
  assert "missing: layer_0/bias (2,)" in fails(arrays(), table=table)


def test_a_rule_matches_whole_names():
  message = fails(arrays() | {"my.layer.0.bias": np.zeros(2)})
  assert "unused: my.layer.0.bias (2,), no rule takes it" in message


def test_all_problems_are_listed_at_once():
  source = arrays() | {
    "layer.0.weight": np.zeros((3, 2)),
    "layer.1.bias": np.zeros(5),
    "stray": np.zeros((7, 1)),
  }
  del source["layer.0.bias"]
  message = fails(source)
  assert message.startswith("file.safetensors does not fit, 4 problem(s)")
  assert (
    "wrong shape: layer.0.weight (3, 2) gives (2, 3), layer_0/kernel is (3, 2)"
    in message
  )
  assert "unused: layer.1.bias (5,), we have no layer_1/bias" in message
  assert "unused: stray (7, 1), no rule takes it" in message
  assert "missing: layer_0/bias (2,), nothing fills it" in message


def test_two_sources_of_one_parameter_are_named():
  table = (*RULES, rules.Rule(r"copy", "layer_0/bias"))
  message = fails(arrays() | {"copy": np.zeros(2)}, table=table)
  assert "twice: layer_0/bias from layer.0.bias and copy" in message


def test_a_transform_that_cannot_is_a_wrong_shape():
  source = arrays() | {"layer.0.weight": np.zeros(6)}
  assert "wrong shape: layer.0.weight (6,) for layer_0/kernel" in fails(source)


def test_a_plan_reads_nothing():
  def read():
    raise AssertionError("a tensor was read")

  unread = {
    name: tensors.Tensor(array.shape, array.dtype, read)
    for name, array in arrays().items()
  }
  plan = rules.plan(RULES, unread, SHAPES)
  assert plan == {
    "layer_0/kernel": ("layer.0.weight", rules.transpose),
    "layer_0/bias": ("layer.0.bias", rules.same),
  }
  huge = dict(unread)
  huge["layer.0.weight"] = tensors.Tensor(
    (1 << 30, 1 << 30), np.dtype(np.float32), read
  )
  with pytest.raises(errors.CheckpointError, match=r"gives \(1073741824, 107"):
    rules.plan(RULES, huge, SHAPES)
