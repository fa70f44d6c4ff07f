"""Weight-only int8: rounding, layers, and how far T5 drifts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.nn import int8
from imagen_jax.weights import from_hf
from tests import random_params

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"


def test_rounding_is_within_half_a_step():
  x = random_params.normal(5, 64, 32) * jnp.arange(1.0, 33.0)[None, None]
  leaves = int8.quantize_leaf("mlp/wo/kernel", x)
  integers, scale = leaves["mlp/wo/kernel_int8"], leaves["mlp/wo/kernel_scale"]
  assert (integers.dtype, scale.shape) == (jnp.int8, (5, 32))
  error = jnp.abs(integers * scale[:, None] - x)
  assert jnp.all(error <= scale[:, None] * 0.5001)
  assert error.max() > 0.4 * scale.max()
  # The largest of each output is exact, and all 255 steps serve.
  np.testing.assert_array_equal(jnp.abs(integers).max(axis=1), 127)


def test_an_embedding_has_a_scale_a_row():
  leaves = int8.quantize_leaf("embedding", random_params.normal(7, 16))
  assert leaves["embedding_scale"].shape == (7,)
  np.testing.assert_array_equal(
    jnp.abs(leaves["embedding_int8"]).max(axis=1), 127
  )


def test_zeros_stay_zeros():
  leaves = int8.quantize_leaf("kernel", jnp.zeros((4, 3)))
  assert not jnp.any(leaves["kernel_int8"])
  assert jnp.all(jnp.isfinite(leaves["kernel_scale"]))


def test_bfloat16_is_rounded_once():
  x = random_params.normal(64, 32).astype(jnp.bfloat16)
  narrow = int8.quantize_leaf("kernel", x)
  wide = int8.quantize_leaf("kernel", x.astype(jnp.float32))
  assert narrow["kernel_scale"].dtype == jnp.float32
  for name in wide:
    np.testing.assert_array_equal(narrow[name], wide[name])


def check_layer(layer, x, axis):
  params = random_params.params(layer, x)
  narrow = int8.quantize(params)
  (name,) = params
  scale = jnp.expand_dims(narrow[f"{name}_scale"], axis)
  widened = {name: narrow[f"{name}_int8"] * scale}
  out = layer.copy(weights="int8").apply({"params": narrow}, x)
  expected = layer.apply({"params": widened}, x)
  np.testing.assert_allclose(out, expected, atol=1e-5, rtol=0)
  assert jnp.abs(out - layer.apply({"params": params}, x)).max() > 1e-3


def test_dense_is_the_widened_matrix():
  check_layer(int8.Dense(8), random_params.normal(2, 5, 24), axis=0)


def test_embed_is_the_widened_table():
  check_layer(int8.Embed(9, 24), jnp.array([[0, 3, 8], [8, 1, 1]]), axis=1)


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_an_id_outside_gives_nan(weights):
  layer = int8.Embed(9, 4, weights)
  ids = jnp.array([[0, 8, 9, -1]])
  out = layer.apply({"params": random_params.params(layer, ids)}, ids)
  np.testing.assert_array_equal(
    jnp.isnan(out).all(axis=-1), [[False, False, True, True]]
  )
  assert not jnp.any(jnp.isnan(out[:, :2]))


def test_the_tree_is_that_of_the_network():
  loaded = from_hf.load(GOLDEN / "text_encoder")
  narrow = tree.flatten(int8.quantize(loaded.params))
  module = loaded.module.clone(weights="int8")
  ids, mask = jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
  variables = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  expected = tree.flatten(variables["params"])
  assert narrow.keys() == expected.keys()
  for name, leaf in expected.items():
    assert (narrow[name].shape, narrow[name].dtype) == (leaf.shape, leaf.dtype)
  # Norms and the bias table stay wide.
  assert "relative_bias/table" in narrow and "final_norm/scale" in narrow


def golden_drift(params, module):
  golden = np.load(GOLDEN / "text_encoder_io.npz")
  mask = golden["attention_mask"] > 0
  out = jax.jit(lambda p, i, m: module.apply({"params": p}, i, m))(
    params, golden["input_ids"].astype(np.int32), mask
  )
  expected = golden["last_hidden_state"][mask]
  error = np.asarray(out, np.float32)[mask] - expected
  return np.sqrt(np.mean(error**2) / np.mean(expected**2))


def test_the_drift_of_t5_is_about_a_percent():
  loaded = from_hf.load(GOLDEN / "text_encoder", weights="int8")
  drift = golden_drift(loaded.params, loaded.module)
  assert 0.002 < drift < 0.03
  # One layer's scales in another order are seen.
  mlp = loaded.params["layers"]["mlp"]["wo"]
  mlp["kernel_scale"] = mlp["kernel_scale"][:, ::-1]
  assert golden_drift(loaded.params, loaded.module) > 2 * drift


def test_weights_stay_int8_in_memory():
  loaded = from_hf.load(GOLDEN / "text_encoder", weights="int8")
  module = loaded.module.clone(num_layers=24, dtype=jnp.bfloat16)
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  shapes = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  compiled = jax.jit(module.apply).lower(shapes, ids, mask).compile()
  integers = sum(
    leaf.size for leaf in jax.tree.leaves(shapes) if leaf.dtype == jnp.int8
  )
  # No widened copy of all layers is made to compute with.
  assert compiled.memory_analysis().temp_size_in_bytes < integers / 2
