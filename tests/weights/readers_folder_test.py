"""Hugging Face folders: files and shards, read on demand, damaged or whole."""

import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors
from imagen_jax.weights import from_hf, readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"
FINAL = "encoder.final_layer_norm.weight"


@pytest.fixture
def folder(tmp_path):
  shutil.copytree(GOLDEN / "text_encoder", tmp_path / "t5")
  for path in (tmp_path / "t5").iterdir():
    path.chmod(0o644)
  return tmp_path / "t5"


def fails(folder, error=errors.CheckpointError):
  with pytest.raises(error) as caught:
    readers.open_folder(folder)
  return str(caught.value)


def edit_index(folder, change):
  path = folder / INDEX
  content = json.loads(path.read_text())
  change(content["weight_map"])
  path.write_text(json.dumps(content))


def test_tensors_are_those_of_the_shards(folder):
  tensors = readers.open_folder(folder)
  expected = {}
  for shard in SHARDS:
    expected |= safetensors.numpy.load_file(folder / shard)
  assert tensors.keys() == expected.keys()
  for name, tensor in tensors.items():
    values = tensor.read()
    assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)
    np.testing.assert_array_equal(values, expected[name])


def test_float16_shards_keep_their_float32():
  tensors = readers.open_folder(GOLDEN / "text_encoder_fp16")
  dtypes = {n.split(".")[-2]: t.dtype.name for n, t in tensors.items()}
  assert dtypes["wo"] == "float32"
  assert dtypes["wi_0"] == dtypes["shared"] == "float16"


@pytest.mark.parametrize(
  "name", ["model.safetensors", "model.fp16.safetensors"]
)
def test_one_file_needs_no_index(tmp_path, name):
  arrays = {"a": np.arange(3.0), "none": np.zeros((0, 2))}
  safetensors.numpy.save_file(arrays, tmp_path / name)
  tensors = readers.open_folder(tmp_path)
  np.testing.assert_array_equal(tensors["a"].read(), arrays["a"])
  assert tensors["none"].read().shape == (0, 2)


def test_nothing_stays_mapped(folder):
  tensors = readers.open_folder(folder)
  kept = [tensor.read() for tensor in tensors.values()]
  assert kept
  maps = pathlib.Path("/proc/self/maps").read_text()
  assert str(folder) not in maps
  mapped = readers.read_safetensors(folder / SHARDS[0])
  assert str(folder) in pathlib.Path("/proc/self/maps").read_text()
  del mapped


def test_a_missing_shard_is_named(folder):
  (folder / SHARDS[1]).unlink()
  assert f"{folder} lacks {SHARDS[1]}, which {INDEX} names" in fails(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_shard_is_named(folder, keep):
  path = folder / SHARDS[0]
  path.write_bytes(path.read_bytes()[:keep])
  message = fails(folder)
  assert f"{path} is corrupt or incomplete" in message
  assert "\n" not in message


def test_a_shard_that_shrinks_after_it_was_opened(folder):
  path = folder / SHARDS[1]
  tensor = readers.open_folder(folder)[FINAL]
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(errors.CheckpointError, match="become shorter"):
    tensor.read()
  path.unlink()
  with pytest.raises(errors.CheckpointError, match="cannot be read"):
    tensor.read()


def test_no_flipped_bit_of_a_header_passes(folder):
  """It is refused, here or for the names and shapes, or changes nothing."""
  path = folder / SHARDS[1]
  raw = path.read_bytes()
  length = 8 + int.from_bytes(raw[:8], "little")
  source = from_hf.read(folder)
  known = {n: (t.shape, t.dtype) for n, t in source.tensors.items()}
  refused = 0
  flips = range(0, length, 7)
  for i in flips:
    flipped = raw[:i] + bytes([raw[i] ^ (1 << i % 8)]) + raw[i + 1 :]
    path.write_bytes(flipped)
    try:
      tensors = from_hf.read(folder).tensors
    except errors.ImagenError:
      refused += 1
    else:
      assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == known
  assert refused > 0.9 * len(flips)


def test_a_flipped_bit_of_the_data_is_another_fingerprint(folder):
  before = from_hf.load(folder).fingerprint
  path = folder / SHARDS[1]
  raw = bytearray(path.read_bytes())
  raw[-1] ^= 1
  path.write_bytes(raw)
  assert from_hf.load(folder).fingerprint != before


def test_an_index_that_lists_more_or_less(folder):
  edit_index(folder, lambda where: where.update({"extra": SHARDS[0]}))
  assert f"extra is not in {SHARDS[0]}" in fails(folder)
  edit_index(folder, lambda where: [where.pop("extra"), where.pop(FINAL)])
  message = fails(folder)
  assert f"{FINAL} lies in {SHARDS[1]}, the index has it in no file" in message
  assert "1 problem(s)" in message


def test_a_tensor_in_two_shards_or_in_the_wrong_one(folder):
  edit_index(folder, lambda where: where.update({FINAL: SHARDS[0]}))
  message = fails(folder)
  assert f"{FINAL} lies in {SHARDS[1]}, the index has it in" in message
  assert f"{FINAL} is not in {SHARDS[0]}" in message
  second = safetensors.numpy.load_file(folder / SHARDS[0])
  second[FINAL] = np.zeros(48, np.float32)
  safetensors.numpy.save_file(second, folder / SHARDS[0])
  message = fails(folder)
  assert "1 problem(s)" in message
  assert f"{FINAL} lies in {SHARDS[1]}" in message


@pytest.mark.parametrize(
  "where", [None, [], {"a": 3}, {"a": "../model.safetensors"}]
)
def test_an_index_without_files_is_refused(folder, where):
  (folder / INDEX).write_text(json.dumps({"weight_map": where}))
  assert "has no weight_map of tensors to files" in fails(folder)


class Bomb:
  def __reduce__(self):
    return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_beside_the_config_is_refused(tmp_path, name):
  (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
  message = fails(tmp_path)
  assert f"{name} is a Python pickle" in message
  assert "convert it to safetensors" in message


def test_a_pickle_in_place_of_a_shard_is_refused(folder):
  (folder / SHARDS[0]).write_bytes(pickle.dumps(Bomb()))
  assert "is a Python pickle" in fails(folder)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
  message = fails(tmp_path, errors.BadInput)
  assert f"{os.path.join(tmp_path, 'model.safetensors')} does not" in message
  assert "cannot be read" in fails(tmp_path / "none", errors.BadInput)
