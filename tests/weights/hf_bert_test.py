"""Hugging Face BERT: three spellings of the names, and total accounting."""

import pathlib
import re

import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.weights import from_hf, hf_bert, readers, tensors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bert"


@pytest.fixture(scope="module")
def config():
  return readers.read_json(GOLDEN / "config.json")


@pytest.fixture(scope="module")
def arrays():
  return readers.read_safetensors(GOLDEN / "model.safetensors").arrays


def old_name(name):
  name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
  return "bert." + re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)


def params(config, arrays):
  source = from_hf.Source(tensors.of(arrays), config, "model.safetensors")
  return tree.flatten(from_hf.build(source).params)


def fails(config, arrays):
  with pytest.raises(errors.CheckpointError) as caught:
    params(config, arrays)
  return str(caught.value)


def test_every_value_is_placed(config, arrays):
  flat = params(config, arrays)
  used = {n: a for n, a in arrays.items() if "pooler" not in n}
  assert len(flat) == len(used)
  assert sum(a.size for a in flat.values()) == sum(
    a.size for a in used.values()
  )
  np.testing.assert_array_equal(
    flat["layer_2/ffn_in/kernel"],
    arrays["encoder.layer.2.intermediate.dense.weight"].T,
  )
  np.testing.assert_array_equal(
    flat["layer_1/attention/value/bias"],
    arrays["encoder.layer.1.attention.self.value.bias"],
  )


def test_all_spellings_give_the_same(config, arrays):
  expected = params(config, arrays)
  prefixed = {"bert." + name: a for name, a in arrays.items()}
  old = {old_name(name): a for name, a in arrays.items()}
  assert "bert.embeddings.LayerNorm.gamma" in old
  for source in (prefixed, old):
    flat = params(config, source)
    assert flat.keys() == expected.keys()
    for name in flat:
      np.testing.assert_array_equal(flat[name], expected[name])


def test_what_an_encoder_does_not_need_is_left_out(config, arrays):
  extra = {
    "embeddings.position_ids": np.arange(64)[None],
    "cls.predictions.bias": np.zeros(120),
    "cls.seq_relationship.weight": np.zeros((2, 48)),
  }
  bare = {n: a for n, a in arrays.items() if "pooler" not in n}
  a = params(config, dict(arrays) | extra)
  b = params(config, bare)
  assert a.keys() == b.keys()


def test_missing_unused_and_misshapen_are_listed(config, arrays):
  source = dict(arrays)
  del source["encoder.layer.1.output.dense.bias"]
  source["encoder.layer.3.output.dense.bias"] = np.zeros(48)
  source["encoder.adapter.weight"] = np.zeros((2, 2))
  source["embeddings.word_embeddings.weight"] = np.zeros((119, 48))
  message = fails(config, source)
  assert "missing: layer_1/ffn_out/bias (48,)" in message
  assert "unused: encoder.layer.3.output.dense.bias (48,)" in message
  assert "unused: encoder.adapter.weight (2, 2)" in message
  assert "(119, 48), embeddings/word/embedding is (120, 48)" in message
  assert "4 problem(s)" in message


def test_both_spellings_at_once_are_refused(config, arrays):
  source = dict(arrays)
  source["embeddings.LayerNorm.gamma"] = np.ones(48)
  assert "twice: embeddings/norm/norm/scale" in fails(config, source)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("model_type", "t5"),
    ("hidden_act", "relu"),
    ("position_embedding_type", "relative_key"),
    ("is_decoder", True),
  ],
)
def test_other_networks_are_refused(config, key, value):
  with pytest.raises(errors.BadInput, match=f"{key}={value!r}"):
    hf_bert.module(config | {key: value})


def test_an_incomplete_config_is_refused(config):
  incomplete = {k: v for k, v in config.items() if k != "vocab_size"}
  with pytest.raises(errors.BadInput, match="lacks vocab_size"):
    hf_bert.module(incomplete)
