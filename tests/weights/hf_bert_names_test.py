"""BERT under the names of the public files: `bert.`, gamma and beta."""

import pathlib

import jax
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.weights import from_hf, readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bert"


@pytest.fixture(scope="module")
def module():
  return from_hf.bert_module(readers.read_json(GOLDEN / "config.json"))


@pytest.fixture(scope="module")
def hub():
  path = GOLDEN / "hub_names" / "model.safetensors"
  return readers.read_safetensors(path).arrays


def test_the_file_has_the_old_names(hub):
  assert all(name.startswith("bert.") for name in hub)
  assert "bert.embeddings.LayerNorm.gamma" in hub
  assert "bert.encoder.layer.0.output.LayerNorm.beta" in hub


def test_the_old_names_give_the_same_parameters(module, hub):
  new = readers.read_safetensors(GOLDEN / "model.safetensors").arrays
  a = tree.flatten(from_hf.bert_params(module, hub))
  b = tree.flatten(from_hf.bert_params(module, new))
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_the_old_names_give_transformers_states(module, hub):
  golden = np.load(GOLDEN / "io.npz")
  apply = jax.jit(lambda p, i, m, s: module.apply({"params": p}, i, m, s))

  def run(params):
    return apply(
      params,
      golden["input_ids"].astype(np.int32),
      golden["attention_mask"] > 0,
      golden["token_type_ids"].astype(np.int32),
    )

  params = from_hf.bert_params(module, hub)
  expected = golden["last_hidden_state"]
  np.testing.assert_allclose(run(params), expected, atol=5e-5, rtol=0)
  # The limit sees one norm's scale and bias exchanged.
  norm = params["layer_2"]["ffn_norm"]["norm"]
  norm["scale"], norm["bias"] = norm["bias"], norm["scale"]
  assert np.abs(run(params) - expected).max() > 1e-2


def test_an_old_name_that_is_missing_is_named(module, hub):
  source = {
    n: a for n, a in hub.items() if n != "bert.embeddings.LayerNorm.beta"
  }
  with pytest.raises(errors.CheckpointError, match="missing: embeddings/norm"):
    from_hf.bert_params(module, source)
