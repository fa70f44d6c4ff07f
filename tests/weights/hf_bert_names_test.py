"""BERT under the names of the public files: `bert.`, gamma and beta."""

import pathlib

import jax
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.weights import from_hf, readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bert"


@pytest.fixture(scope="module")
def hub():
  path = GOLDEN / "hub_names" / "model.safetensors"
  return readers.open_safetensors(path)


def build(tensors):
  config = readers.read_json(GOLDEN / "config.json")
  return from_hf.build(from_hf.Source(tensors, config, "hub"))


def test_the_file_has_the_old_names(hub):
  assert all(name.startswith("bert.") for name in hub)
  assert "bert.embeddings.LayerNorm.gamma" in hub
  assert "bert.encoder.layer.0.output.LayerNorm.beta" in hub


def test_the_old_names_give_the_same_parameters(hub):
  a = tree.flatten(build(hub).params)
  b = tree.flatten(from_hf.load(GOLDEN).params)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_the_old_names_give_transformers_states(hub):
  golden = np.load(GOLDEN / "io.npz")
  apply = jax.jit(lambda p, i, m, s: module.apply({"params": p}, i, m, s))

  def run(params):
    return apply(
      params,
      golden["input_ids"].astype(np.int32),
      golden["attention_mask"] > 0,
      golden["token_type_ids"].astype(np.int32),
    )

  module, params, *_ = build(hub)
  expected = golden["last_hidden_state"]
  np.testing.assert_allclose(run(params), expected, atol=5e-5, rtol=0)
  # The limit sees one norm's scale and bias exchanged.
  norm = params["layer_2"]["ffn_norm"]["norm"]
  norm["scale"], norm["bias"] = norm["bias"], norm["scale"]
  assert np.abs(run(params) - expected).max() > 1e-2


def test_an_old_name_that_is_missing_is_named(hub):
  source = {
    n: a for n, a in hub.items() if n != "bert.embeddings.LayerNorm.beta"
  }
  with pytest.raises(errors.CheckpointError, match="missing: embeddings/norm"):
    build(source)
