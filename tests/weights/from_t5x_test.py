"""T5X -> our encoder: T5X's own outputs, names by shapes, fingerprints."""

import gzip
import importlib.util
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import text_variants
from imagen_jax.weights import from_hf, from_t5x, hf_writer, rules, t5x_reader
from imagen_jax.weights.tensors import Tensor
from tests import t5x_files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
  return t5x_files.extract(tmp_path_factory.mktemp("t5x"))


def difference(loaded, golden):
  """Largest, where there are tokens, from what T5X computed."""
  io = np.load(golden / "io.npz")
  apply = jax.jit(lambda p, i, m: loaded.module.apply({"params": p}, i, m))
  out = apply(loaded.params, io["ids"].astype(np.int32), io["mask"] > 0)
  return np.abs(np.asarray(out) - io["encoded"])[io["mask"] > 0].max()


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_equals_t5x(golden, layout):
  loaded = from_t5x.load(golden[layout] / "checkpoint_0")
  assert loaded.module.per_layer_bias == (layout == "f32_scanned")
  assert difference(loaded, golden[layout]) < 1e-5
  # The limit sees a matrix that is turned about.
  query = loaded.params["layers"]["attention"]["query"]
  query["kernel"] = query["kernel"][:, ::-1]
  assert difference(loaded, golden[layout]) > 1e-2


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_a_flipped_transposition_is_seen(golden, layout, monkeypatch):
  """The output's matrix is as wide as the model in no golden: 64, not 48."""
  flipped = [
    rule._replace(transform=rules.same) if "/out/" in rule.source else rule
    for rule in from_t5x.RULES
  ]
  monkeypatch.setattr(from_t5x, "RULES", tuple(flipped))
  with pytest.raises(errors.CheckpointError, match="wrong shape"):
    from_t5x.load(golden[layout] / "checkpoint_0")


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
@pytest.mark.parametrize("version", t5x_reader.VERSIONS)
def test_bfloat16_equals_the_rounded_checkpoint(
  golden, tmp_path, layout, version
):
  source = golden[layout] / "checkpoint_0"
  narrow = t5x_files.copy(source, tmp_path / "checkpoint_0")
  t5x_files.bfloat16(narrow, version=version)
  a = tree.flatten(from_t5x.load(narrow).params)
  wide = from_t5x.load(source)
  for name, expected in tree.flatten(wide.params).items():
    rounded = np.asarray(expected).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(a[name], rounded.astype(np.float32))


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_inline_leaves_give_the_same(golden, tmp_path, layout):
  source = golden[layout] / "checkpoint_0"
  moved = t5x_files.copy(source, tmp_path / "checkpoint_0")
  t5x_files.inline(moved)
  loaded = from_t5x.load(moved)
  assert loaded.fingerprint == from_t5x.load(source).fingerprint
  assert difference(loaded, golden[layout]) < 1e-5


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_a_hugging_face_folder_is_the_same_encoder(golden, tmp_path, layout):
  source = from_t5x.read(golden[layout] / "checkpoint_0")
  out = tmp_path / "hf"
  hf_writer.write_hf_folder(source.tensors, source.config, out, np.float32)
  a, b = from_hf.build(source), from_hf.load(out)
  assert a.fingerprint == b.fingerprint
  for left, right in zip(
    jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True
  ):
    np.testing.assert_array_equal(left, right)
  # Other values, or the same in another dtype, are another fingerprint.
  narrow = tmp_path / "narrow"
  hf_writer.write_hf_folder(
    source.tensors, source.config, narrow, ml_dtypes.bfloat16
  )
  assert from_hf.load(narrow).fingerprint != a.fingerprint


def unread(shape):
  def read():
    raise AssertionError("a tensor was read")

  return Tensor(tuple(shape), np.dtype(np.float32), read)


def t5x_xxl():
  """Names and shapes of the published T5-XXL v1.1 (two of its decoder's)."""
  d, f, n, k = 4096, 10240, 64, 64
  shapes = {
    "state/step": (),
    "state/param_states/encoder/encoder_norm/scale/v": (d,),
    "target/decoder/logits_dense/kernel": (d, 32128),
    "target/decoder/layers_0/mlp/wo/kernel": (f, d),
    "target/token_embedder/embedding": (32128, d),
    "target/encoder/encoder_norm/scale": (d,),
    "target/encoder/relpos_bias/rel_embedding": (n, 32),
  }
  for i in range(24):
    layer = f"target/encoder/layers_{i}"
    for name in ("query", "key", "value"):
      shapes[f"{layer}/attention/{name}/kernel"] = (d, n * k)
    shapes |= {
      f"{layer}/attention/out/kernel": (n * k, d),
      f"{layer}/mlp/wi_0/kernel": (d, f),
      f"{layer}/mlp/wi_1/kernel": (d, f),
      f"{layer}/mlp/wo/kernel": (f, d),
      f"{layer}/pre_attention_layer_norm/scale": (d,),
      f"{layer}/pre_mlp_layer_norm/scale": (d,),
    }
  return {name: unread(shape) for name, shape in shapes.items()}


def test_the_names_of_xxl_are_those_of_the_public_folder():
  raw = gzip.decompress((GOLDEN / "real_param_shapes.json.gz").read_bytes())
  public = xxl_shapes(json.loads(raw))
  renamed = from_t5x.renamed(t5x_xxl())
  shapes = {name: list(tensor.shape) for name, tensor in renamed.items()}
  tied = {"encoder.embed_tokens.weight": shapes["shared.weight"]}
  assert shapes | tied == public
  # And by shapes alone they are our xxl, every one used.
  config = from_t5x.config(renamed)
  source = from_hf.Source(renamed, config, "xxl")
  assert from_hf.used(source).keys() == renamed.keys()
  module = from_hf.FAMILIES["t5"].module(config)
  assert module == text_variants.make("t5_v1_1_xxl")


def xxl_shapes(content):
  """The list of T5's names, wherever it stands in the file."""
  if "shared.weight" in content:
    return content
  inner = (xxl_shapes(v) for v in content.values() if isinstance(v, dict))
  return next((found for found in inner if found), None)


def test_the_first_version_has_one_matrix_before_relu():
  tensors = {
    name.replace("wi_0", "wi"): tensor
    for name, tensor in t5x_xxl().items()
    if "wi_1" not in name
  }
  renamed = from_t5x.renamed(tensors)
  config = from_t5x.config(renamed)
  assert config["feed_forward_proj"] == "relu"
  assert from_hf.used(from_hf.Source(renamed, config, "v1.0")).keys() == (
    renamed.keys()
  )


def test_names_that_are_unknown_or_twice_are_listed():
  tensors = t5x_xxl()
  tensors["target/encoder/adapter/kernel"] = unread((2, 3))
  table = tensors["target/encoder/relpos_bias/rel_embedding"]
  tensors["target/encoder/layers_0/relpos_bias/rel_embedding"] = table
  tensors["target/encoder/layers_7/mlp/wo/bias"] = unread((4,))
  with pytest.raises(errors.CheckpointError) as caught:
    from_t5x.renamed(tensors, what="here")
  message = str(caught.value)
  assert message.startswith("here does not fit, 3 problem(s)")
  assert "unused: target/encoder/adapter/kernel (2, 3), no rule" in message
  assert "unused: target/encoder/layers_7/mlp/wo/bias (4,)" in message
  assert "twice: encoder.block.0.layer.0.SelfAttention.relative" in message


def test_a_missing_or_misshapen_layer_is_listed(golden):
  source = from_t5x.read(golden["f32"] / "checkpoint_0")
  tensors = dict(source.tensors)
  block = "encoder.block.1.layer.1.DenseReluDense"
  del tensors[f"{block}.wo.weight"]
  tensors[f"{block}.wi_1.weight"] = unread((95, 48))
  with pytest.raises(errors.CheckpointError) as caught:
    from_hf.build(source._replace(tensors=tensors))
  assert "missing: layers/1/mlp/wo/kernel (96, 48)" in str(caught.value)
  assert "(95, 48) gives (48, 95), layers/1/mlp/wi_1/kernel" in str(
    caught.value
  )


def test_what_is_no_t5_is_refused():
  with pytest.raises(errors.CheckpointError, match=r"here is no T5.*shared"):
    from_t5x.config({}, what="here")


@pytest.mark.skipif(
  importlib.util.find_spec("t5x") is None,
  reason="t5x is not installed; it is not on the package index (see setup.py)",
)
@pytest.mark.parity
@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_t5xs_reader_agrees(golden, layout):
  from t5x import checkpoints

  checkpoint = golden[layout] / "checkpoint_0"
  theirs = tree.flatten(checkpoints.load_t5x_checkpoint(str(checkpoint)))
  for name, tensor in t5x_reader.read(checkpoint).items():
    if name.startswith("target/encoder/layers_") and layout == "f32_scanned":
      layer, rest = name.removeprefix("target/encoder/layers_").split("/", 1)
      expected = theirs[f"target/encoder/encoder/{rest}"][:, int(layer)]
    else:
      expected = theirs[name]
    np.testing.assert_array_equal(tensor.read(), expected)
