"""Hugging Face folders: families, dtypes, int8, sharding, and refusals."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import bert, clip, t5
from imagen_jax.nn import int8
from imagen_jax.weights import from_hf, readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDERS = {
  "bert": (GOLDEN / "bert", bert.BertEncoder),
  "clip_text_model": (GOLDEN / "clip_text", clip.ClipText),
  "t5": (GOLDEN / "t5" / "text_encoder", t5.T5Encoder),
}


@pytest.mark.parametrize("family", FOLDERS)
def test_config_says_which_family(family):
  folder, network = FOLDERS[family]
  loaded = from_hf.load(folder, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
  assert isinstance(loaded.module, network)
  assert loaded.module.dtype == jnp.bfloat16
  assert loaded.config == readers.read_json(folder / "config.json")
  assert loaded.config["model_type"] == family
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {
    jnp.dtype(jnp.bfloat16)
  }
  assert len(loaded.fingerprint) == 64


@pytest.mark.parametrize("family", FOLDERS)
def test_the_parameters_are_those_of_the_network(family):
  loaded = from_hf.load(FOLDERS[family][0])
  ids, mask = jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
  shapes = jax.eval_shape(loaded.module.init, jax.random.key(0), ids, mask)
  assert not tree.diff(loaded.params, shapes["params"])
  assert tree.diff({}, shapes["params"])


def test_float16_and_float32_are_cast_alike():
  narrow = from_hf.load(GOLDEN / "t5" / "text_encoder_fp16")
  assert {leaf.dtype for leaf in jax.tree.leaves(narrow.params)} == {
    jnp.dtype(jnp.float32)
  }
  wide = from_hf.load(GOLDEN / "t5" / "text_encoder")
  assert narrow.fingerprint != wide.fingerprint


def test_int8_is_quantised_float():
  folder = GOLDEN / "t5" / "text_encoder"
  narrow, wide = from_hf.load(folder, weights="int8"), from_hf.load(folder)
  assert narrow.module == wide.module.clone(weights="int8")
  assert narrow.fingerprint == wide.fingerprint
  expected = tree.flatten(int8.quantize(wide.params))
  found = tree.flatten(narrow.params)
  assert found.keys() == expected.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf)


def test_a_mesh_gives_the_same_states():
  folder = GOLDEN / "t5" / "text_encoder"
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("model",))

  def sharding(name, shape):
    split = name.endswith("wi_0/kernel") or name.endswith("query/kernel")
    spec = (None, None, "model") if split else ()
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  one, four = from_hf.load(folder), from_hf.load(folder, sharding=sharding)
  kernel = four.params["layers"]["mlp"]["wi_0"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 48, 24)
  golden = np.load(GOLDEN / "t5" / "text_encoder_io.npz")
  ids = jnp.asarray(golden["input_ids"], jnp.int32)
  mask = jnp.asarray(golden["attention_mask"] > 0)
  apply = jax.jit(lambda p: one.module.apply({"params": p}, ids, mask))
  np.testing.assert_allclose(
    apply(four.params), apply(one.params), atol=2e-5, rtol=0
  )


def test_int8_is_for_t5_alone():
  with pytest.raises(errors.BadInput, match="bert network, which has no int8"):
    from_hf.load(GOLDEN / "bert", weights="int8")


def test_an_unknown_family_is_refused(tmp_path):
  shutil.copy(GOLDEN / "bert" / "model.safetensors", tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
  with pytest.raises(errors.BadInput, match=r"'gpt2'; known are bert, clip"):
    from_hf.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
  shutil.copy(GOLDEN / "bert" / "config.json", tmp_path)
  with pytest.raises(errors.BadInput, match=r"model\.safetensors does not"):
    from_hf.load(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path):
  with pytest.raises(errors.BadInput, match=r"config\.json does not"):
    from_hf.load(tmp_path)
