"""Stage files and cascade folders: round trips, and what they refuse."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from imagen_jax import build
from imagen_jax.cascade import folder
from imagen_jax.core import errors, tree
from tests import tiny_cascade


@pytest.fixture
def where(tmp_path):
  return tiny_cascade.write_folder(tmp_path / "cascade")


def rewrite(where, **changes):
  """Changes fields of `cascade.json`."""
  path = where / folder.MANIFEST
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_says_what_was_written(where):
  description = folder.read(where)
  assert description.names == ("base", "sr")
  assert (description.encoder, description.max_length) == ("minilm", 24)
  assert description.note == "tiny, random"
  for entry, info in zip(description.stages, tiny_cascade.infos(), strict=True):
    assert entry.info == info
    assert entry.sampler == tiny_cascade.SAMPLERS[info.name]
    assert len(entry.digest) == 64


def test_the_settings_of_the_manifest_come_before_those_of_the_file(where):
  manifest = json.loads((where / folder.MANIFEST).read_text())
  manifest["stages"][0]["sampler"] = {"steps": 9}
  del manifest["stages"][1]["sampler"]
  rewrite(where, **manifest)
  base, sr = folder.read(where).stages
  assert base.sampler == {"steps": 9} and base.info.sampler["steps"] == 4
  assert sr.sampler == sr.info.sampler


def test_parameters_pass_through_a_file(tmp_path):
  info = tiny_cascade.infos()[0]
  stage = build.stage(info.stage)
  params = tiny_cascade.random_params(stage)
  for dtype, exact in ((jnp.float32, True), (jnp.bfloat16, False)):
    path = tmp_path / f"{jnp.dtype(dtype).name}.safetensors"
    digest = folder.save_stage(path, params, info, dtype=dtype)
    entry = folder.read_stage(path)
    assert entry.digest == digest and entry.info == info
    loaded = folder.load_params(path)
    assert not tree.diff(loaded, params)
    pairs = list(
      zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True)
    )
    equal = all(np.array_equal(a, b) for a, b in pairs)
    assert equal == exact
    for a, b in pairs:
      np.testing.assert_allclose(a, b, rtol=2**-8, atol=0)


def test_stage_files_alone_are_a_cascade_in_any_order(tmp_path):
  paths = tiny_cascade.write_stages(tmp_path)
  for order in (paths, paths[::-1]):
    assert folder.from_files(order).names == ("base", "sr")


def test_a_folder_without_a_manifest_is_refused(tmp_path):
  tiny_cascade.write_stages(tmp_path)
  for path in (tmp_path, tmp_path / "nothing"):
    with pytest.raises(errors.BadInput, match=r"holds no cascade\.json; give"):
      folder.read(path)


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    ({"version": 2}, errors.BadInput, "version 2, expected .* version 1"),
    ({"format": "other"}, errors.BadInput, "'other' version 1, expected"),
    ({"stages": 3}, errors.CheckpointError, "does not describe"),
    ({"stages": [{}]}, errors.CheckpointError, "KeyError: 'file'"),
    ({"stages": []}, errors.BadInput, "no stages"),
    ({"stages": [{"file": "x"}]}, errors.BadInput, "x does not exist"),
    ({"stages": [{"file": "../x"}]}, errors.BadInput, "lies in its folder"),
    ({"max_length": 9}, errors.BadInput, "'minilm' of 24 tokens, the cascade"),
    (
      {"stages": [{"file": "sr.safetensors"}]},
      errors.BadInput,
      "enlarges images of 16x16, but the stage before gives no image",
    ),
    (
      {"stages": [{"file": "base.safetensors"}] * 2},
      errors.BadInput,
      "stage names base, base",
    ),
  ],
)
def test_a_wrong_manifest_is_refused(where, changes, error, message):
  rewrite(where, **changes)
  with pytest.raises(error, match=message):
    folder.read(where)


def test_a_manifest_that_is_no_json_is_refused(where):
  (where / folder.MANIFEST).write_text("{")
  with pytest.raises(errors.CheckpointError, match="not readable JSON"):
    folder.read(where)


def test_a_damaged_stage_file_is_refused(where):
  path = where / "base.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:-100])
  with pytest.raises(errors.CheckpointError, match="corrupt or incomplete"):
    folder.read(where)
  path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  assert folder.read(where).names == ("base", "sr")  # the parameters are unread
  with pytest.raises(errors.CheckpointError, match="corrupt: its content"):
    folder.load_params(path)


def test_other_safetensors_are_refused(tmp_path):
  from imagen_jax.weights import native

  path = tmp_path / "other.safetensors"
  native.save_params(path, {"a": np.zeros(2)}, {"format": "other"})
  with pytest.raises(errors.BadInput, match="not one of our stage files"):
    folder.read_stage(path)
  native.save_params(path, {"a": np.zeros(2)}, {"format": "imagen_jax stage"})
  with pytest.raises(errors.CheckpointError, match="KeyError: 'stage'"):
    folder.read_stage(path)


def test_stages_trained_with_other_text_are_refused(tmp_path):
  first, second = tiny_cascade.infos()
  other = dataclasses.replace(second, text=second.text | {"encoder": "t5"})
  entries = [
    folder.Entry(epath.Path(info.name), info, info.sampler, "")
    for info in (first, other)
  ]
  with pytest.raises(errors.BadInput, match="text encoder 't5' of 24 tokens"):
    folder.check(folder.describe(entries))
