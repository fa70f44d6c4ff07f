"""Placement: layers into stacks, shardings, int8, fingerprints, one read."""

import collections
import hashlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.nn import int8
from imagen_jax.weights import placement, rules, tensors
from imagen_jax.weights.tensors import Tensor

RULES = (
  rules.Rule(r"block\.(\d+)\.w", r"layers/\1/dense/kernel", rules.transpose),
  rules.Rule(r"block\.(\d+)\.norm", r"layers/\1/norm/scale"),
  rules.Rule(r"words", "words/embedding"),
)
SHAPES = {
  "layers/dense/kernel": (3, 4, 8),
  "layers/norm/scale": (3, 4),
  "words/embedding": (16, 4),
}


def arrays(dtype=np.float32):
  draw = np.random.default_rng(0)
  values = {"words": draw.standard_normal((16, 4))}
  for i in range(3):
    values[f"block.{i}.w"] = draw.standard_normal((8, 4))
    values[f"block.{i}.norm"] = draw.standard_normal(4)
  return {name: array.astype(dtype) for name, array in values.items()}


def place(source, dtype=np.float32, weights="float", sharding=None):
  plan = rules.plan(RULES, source, placement.unstacked(SHAPES))
  params, fingerprint = placement.place(
    plan, source, SHAPES, dtype=dtype, weights=weights, sharding=sharding
  )
  return tree.flatten(params), fingerprint


def expected(source):
  def stack(name):
    return np.stack([source[f"block.{i}.{name}"] for i in range(3)])

  return {
    "layers/dense/kernel": stack("w").swapaxes(1, 2),
    "layers/norm/scale": stack("norm"),
    "words/embedding": source["words"],
  }


def test_each_layer_has_a_name():
  assert placement.unstacked(SHAPES) == {
    "layers/0/dense/kernel": (4, 8),
    "layers/1/dense/kernel": (4, 8),
    "layers/2/dense/kernel": (4, 8),
    "layers/0/norm/scale": (4,),
    "layers/1/norm/scale": (4,),
    "layers/2/norm/scale": (4,),
    "words/embedding": (16, 4),
  }


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("stored", [np.float32, np.float16, np.float64])
def test_layers_are_stacked_in_order(dtype, stored):
  source = arrays(stored)
  params, _ = place(tensors.of(source), dtype)
  for name, values in expected(source).items():
    assert (params[name].shape, params[name].dtype) == (SHAPES[name], dtype)
    # JAX without x64 takes float64 in float32.
    narrow = values.astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(np.asarray(params[name]), narrow)


def test_every_tensor_is_read_once_and_then_forgotten():
  source = tensors.of(arrays())
  reads = collections.Counter()

  def counted(name):
    def read():
      reads[name] += 1
      return source[name].read()

    return Tensor(source[name].shape, source[name].dtype, read)

  place({name: counted(name) for name in source})
  assert reads == dict.fromkeys(source, 1)


def test_int8_is_what_the_network_would_make_of_it():
  source = tensors.of(arrays(ml_dtypes.bfloat16))
  params, fingerprint = place(source, weights="int8")
  wide, same = place(source)
  assert fingerprint == same
  narrow = tree.flatten(int8.quantize(tree.unflatten(wide)))
  assert params.keys() == narrow.keys()
  assert params["layers/dense/kernel_int8"].dtype == jnp.int8
  for name in narrow:
    np.testing.assert_array_equal(params[name], narrow[name])


def by_last_axis(mesh, asked=None):
  def sharding(name, shape):
    if asked is not None:
      asked[name] = shape
    spec = [None] * (len(shape) - 1)
    divisible = shape[-1] % mesh.size == 0
    spec.append("x" if divisible else None)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  return sharding


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_parameters_lie_where_they_are_told(weights):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
  asked = {}
  sharding = by_last_axis(mesh, asked)
  source = tensors.of(arrays())
  params, fingerprint = place(source, weights=weights, sharding=sharding)
  single, same = place(source, weights=weights)
  assert fingerprint == same
  assert asked == {name: leaf.shape for name, leaf in single.items()}
  for name, leaf in params.items():
    assert leaf.sharding.is_equivalent_to(
      sharding(name, leaf.shape), leaf.ndim
    ), name
    np.testing.assert_array_equal(leaf, single[name])
  kernel = {"float": "kernel", "int8": "kernel_int8"}[weights]
  shard = params[f"layers/dense/{kernel}"].addressable_shards[1]
  assert shard.data.shape == (3, 4, 2)


def test_the_fingerprint_is_the_documented_one():
  source = arrays(ml_dtypes.bfloat16)
  lines = [
    f"{name} bfloat16 {array.shape}"
    f" {hashlib.sha256(array.tobytes()).hexdigest()}"
    for name, array in sorted(source.items())
  ]
  _, fingerprint = place(tensors.of(source))
  assert fingerprint == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_fingerprint_sees_values_dtype_and_not_the_order_in_memory():
  source = arrays()
  _, fingerprint = place(tensors.of(source))
  turned = {n: np.asfortranarray(a) for n, a in reversed(source.items())}
  assert place(tensors.of(turned))[1] == fingerprint
  assert place(tensors.of(turned), dtype=jnp.bfloat16)[1] == fingerprint
  other = dict(source)
  other["block.1.norm"] = np.nextafter(source["block.1.norm"], 9)
  assert place(tensors.of(other))[1] != fingerprint
  wide = {n: a.astype(np.float64) for n, a in source.items()}
  assert place(tensors.of(wide))[1] != fingerprint


def test_parameters_are_copies():
  source = arrays()
  params, _ = place(tensors.of(source))
  before = np.array(params["words/embedding"])
  source["words"][:] = 0
  np.testing.assert_array_equal(params["words/embedding"], before)
  assert before.any()
