"""Hugging Face CLIP: the spellings, whole CLIPs, and total accounting."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.weights import hf_clip, readers, rules

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip_text"


@pytest.fixture(scope="module")
def config():
  return readers.read_json(GOLDEN / "config.json")


@pytest.fixture(scope="module")
def shapes(config):
  return shapes_of(hf_clip.module(config))


@pytest.fixture(scope="module")
def tensors():
  return readers.read_safetensors(GOLDEN / "model.safetensors").arrays


@pytest.fixture(scope="module")
def hub():
  path = GOLDEN / "hub_names" / "model.safetensors"
  return readers.read_safetensors(path).arrays


def shapes_of(module):
  ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.bool_)
  made = jax.eval_shape(module.init, jax.random.key(0), ids, mask)["params"]
  return {name: leaf.shape for name, leaf in tree.flatten(made).items()}


def test_every_value_is_placed(shapes, tensors):
  flat = rules.apply(hf_clip.RULES, tensors, shapes)
  assert len(flat) == len(tensors)
  assert sum(a.size for a in flat.values()) == sum(
    a.size for a in tensors.values()
  )
  np.testing.assert_array_equal(
    flat["layer_2/attention/value/kernel"],
    tensors["encoder.layers.2.self_attn.v_proj.weight"].T,
  )
  np.testing.assert_array_equal(
    flat["layer_0/ffn_norm/scale"],
    tensors["encoder.layers.0.layer_norm2.weight"],
  )


def test_both_spellings_give_the_same(shapes, tensors, hub):
  assert all(name.startswith("text_model.") for name in hub)
  assert not any(name.startswith("text_model.") for name in tensors)
  a = rules.apply(hf_clip.RULES, tensors, shapes)
  b = rules.apply(hf_clip.RULES, hub, shapes)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_a_whole_clip_gives_its_text_tower(config, shapes, hub):
  whole = dict(hub) | {
    "logit_scale": np.float32(2.66),
    "text_projection.weight": np.zeros((40, 48)),
    "visual_projection.weight": np.zeros((40, 64)),
    "text_model.embeddings.position_ids": np.arange(77)[None],
    "vision_model.embeddings.position_ids": np.arange(17)[None],
    "vision_model.encoder.layers.0.layer_norm1.bias": np.zeros(64),
  }
  a = rules.apply(hf_clip.RULES, whole, shapes)
  assert a.keys() == rules.apply(hf_clip.RULES, hub, shapes).keys()
  nested = {"model_type": "clip", "text_config": config, "vision_config": {}}
  assert hf_clip.module(nested) == hf_clip.module(config)


def test_the_penultimate_output_uses_up_every_tensor(config, tensors):
  module = hf_clip.module(config, output="penultimate")
  assert module.output == "penultimate"
  flat = rules.apply(hf_clip.RULES, tensors, shapes_of(module))
  assert len(flat) == len(tensors)


def test_missing_and_unused_are_listed(shapes, tensors):
  source = dict(tensors)
  del source["final_layer_norm.bias"]
  source["encoder.layers.3.mlp.fc1.bias"] = np.zeros(96)
  source["adapter.weight"] = np.zeros((2, 2))
  with pytest.raises(errors.CheckpointError) as caught:
    rules.apply(hf_clip.RULES, source, shapes)
  message = str(caught.value)
  assert "3 problem(s)" in message
  assert "missing: norm/bias (48,)" in message
  assert "unused: encoder.layers.3.mlp.fc1.bias (96,)" in message
  assert "unused: adapter.weight (2, 2)" in message


def test_a_config_may_leave_out_defaults():
  # As the public ViT-L/14's text_config does.
  text = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
  }
  module = hf_clip.module({"model_type": "clip", "text_config": text})
  assert (module.hidden_size, module.num_attention_heads) == (768, 12)
  assert (module.vocab_size, module.num_hidden_layers) == (49408, 12)
  assert (module.hidden_act, module.layer_norm_eps) == ("quick_gelu", 1e-5)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"model_type": "bert"}, "model_type='bert'"),
    ({}, "model_type=None"),
    ({"model_type": "clip"}, "no text_config"),
    (
      {"model_type": "clip_text_model", "hidden_act": "relu"},
      "hidden_act='relu'.*knows gelu, quick_gelu",
    ),
  ],
)
def test_other_networks_are_refused(config, message):
  with pytest.raises(errors.BadInput, match=message):
    hf_clip.module(config)
