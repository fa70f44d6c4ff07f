"""Hugging Face T5: spellings, what is left out, and configs."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import text_variants
from imagen_jax.weights import from_hf, hf_t5, rules, tensors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "t5" / "text_encoder"


@pytest.fixture(scope="module")
def source():
  return from_hf.read(FOLDER)


@pytest.fixture(scope="module")
def arrays(source):
  return {name: tensor.read() for name, tensor in source.tensors.items()}


def build(source, arrays):
  return from_hf.build(source._replace(tensors=tensors.of(arrays)))


def fails(source, arrays):
  with pytest.raises(errors.CheckpointError) as caught:
    build(source, arrays)
  return str(caught.value)


def test_every_value_is_placed(source, arrays):
  params = tree.flatten(build(source, arrays).params)
  assert tree.count(params) == sum(a.size for a in arrays.values())
  block = "encoder.block.2.layer"
  np.testing.assert_array_equal(
    params["layers/attention/out/kernel"][2],
    arrays[f"{block}.0.SelfAttention.o.weight"].T,
  )
  np.testing.assert_array_equal(
    params["layers/mlp/wi_1/kernel"][2],
    arrays[f"{block}.1.DenseReluDense.wi_1.weight"].T,
  )
  np.testing.assert_array_equal(
    params["layers/mlp_norm/scale"][2], arrays[f"{block}.1.layer_norm.weight"]
  )


def test_a_flipped_transposition_is_seen(source, arrays, monkeypatch):
  flipped = tuple(
    rule._replace(transform=rules.same) if "DenseRelu" in rule.source else rule
    for rule in hf_t5.RULES
  )
  family = from_hf.FAMILIES["t5"]._replace(rules=flipped)
  monkeypatch.setitem(from_hf.FAMILIES, "t5", family)
  assert "wrong shape: encoder.block.0.layer.1.DenseRelu" in fails(
    source, arrays
  )


def test_what_an_encoder_does_not_need_is_left_out(source, arrays):
  extra = {
    "encoder.embed_tokens.weight": arrays["shared.weight"],
    "decoder.embed_tokens.weight": arrays["shared.weight"],
    "decoder.block.0.layer.1.EncDecAttention.q.weight": np.zeros((64, 48)),
    "lm_head.weight": np.zeros((256, 48)),
  }
  a, b = build(source, arrays), build(source, arrays | extra)
  assert a.fingerprint == b.fingerprint


def test_missing_unused_and_misshapen_are_listed(source, arrays):
  arrays = dict(arrays)
  block = "encoder.block.1.layer"
  del arrays["shared.weight"]
  arrays[f"{block}.0.SelfAttention.q.bias"] = np.zeros(64)
  arrays["encoder.block.3.layer.0.layer_norm.weight"] = np.zeros(48)
  arrays[f"{block}.1.DenseReluDense.wo.weight"] = np.zeros((96, 48))
  message = fails(source, arrays)
  assert message.startswith(f"{FOLDER} does not fit, 4 problem(s)")
  assert "missing: token_embedder/embedding (256, 48)" in message
  assert f"unused: {block}.0.SelfAttention.q.bias (64,), no rule" in message
  assert "we have no layers/3/attention_norm/scale" in message
  assert "(48, 96), layers/1/mlp/wo/kernel is (96, 48)" in message


def test_a_bias_table_of_a_later_block_belongs_to_umt5(source, arrays):
  table = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias"
  first = arrays[f"{table.format(0)}.weight"]
  more = arrays | {f"{table.format(i)}.weight": i * first for i in (1, 2)}
  assert "unused: encoder.block.1.layer.0.SelfAttention.relative" in fails(
    source, more
  )
  umt5 = source._replace(config=source.config | {"model_type": "umt5"})
  assert "missing: layers/1/relative_bias/table" in fails(umt5, arrays)
  loaded = build(umt5, more)
  tables = loaded.params["layers"]["relative_bias"]["table"]
  np.testing.assert_array_equal(tables, [first, first, 2 * first])


def test_xxl_fits_by_names_and_shapes():
  raw = gzip.decompress((GOLDEN / "real_param_shapes.json.gz").read_bytes())
  listed = next(
    shapes
    for shapes in leaves_of(json.loads(raw))
    if "encoder.embed_tokens.weight" in shapes
  )

  def read():
    raise AssertionError("a tensor was read")

  unread = {
    name: tensors.Tensor(tuple(shape), np.dtype(np.float16), read)
    for name, shape in listed.items()
  }
  fields = text_variants.VARIANTS["t5_v1_1_xxl"].fields
  config = {k: v for k, v in fields.items() if k != "feed_forward"}
  config |= {"model_type": "t5", "feed_forward_proj": "gated-gelu"}
  used = from_hf.used(from_hf.Source(unread, config, "xxl"))
  assert used.keys() == unread.keys() - {"encoder.embed_tokens.weight"}


def leaves_of(content):
  """Every {name: shape} in the file."""
  if all(isinstance(value, list) for value in content.values()):
    yield content
    return
  for value in content.values():
    if isinstance(value, dict) and value:
      yield from leaves_of(value)


def test_configs_of_each_kind(source):
  config = source.config
  assert hf_t5.module(config) == hf_t5.module(config | {"model_type": "mt5"})
  assert hf_t5.module(config | {"model_type": "umt5"}).per_layer_bias
  # The first T5s do not say that theirs is relu, nor how far they see.
  old = {
    key: value
    for key, value in config.items()
    if not key.startswith(("feed_forward", "relative", "layer_norm"))
  }
  module = hf_t5.module(old)
  assert module.feed_forward == "relu"
  assert module.relative_attention_max_distance == 128
  assert hf_t5.module(old | {"model_type": "mt5"}).feed_forward == "gated-gelu"


@pytest.mark.parametrize(
  ("change", "text"),
  [
    ({"model_type": "longt5"}, "model_type='longt5'; this T5 encoder is one"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj='gated-silu'"),
    ({"d_kv": None}, "lacks d_kv"),
  ],
)
def test_other_networks_are_refused(source, change, text):
  config = source.config | change
  config = {key: value for key, value in config.items() if value is not None}
  with pytest.raises(errors.BadInput, match=text):
    hf_t5.module(config)
