"""Hugging Face folders that we write: the library's format, whole or absent."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors
from imagen_jax.weights import from_hf, hf_writer, readers, tensors
from imagen_jax.weights.tensors import Tensor

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5" / "text_encoder"


@pytest.fixture(scope="module")
def source():
  return from_hf.read(GOLDEN)


def write(source, out, dtype=np.float32, **options):
  hf_writer.write_hf_folder(
    from_hf.used(source), source.config, out, dtype, **options
  )
  return out


def test_what_is_written_loads_the_same(source, tmp_path):
  out = write(source, tmp_path / "t5")
  assert from_hf.load(out).fingerprint == from_hf.load(GOLDEN).fingerprint
  assert sorted(path.name for path in out.iterdir()) == [
    "config.json",
    "model.safetensors",
  ]
  # The library reads it too, and every tensor is aligned.
  arrays = safetensors.numpy.load_file(out / "model.safetensors")
  assert arrays.keys() == source.tensors.keys()
  raw = (out / "model.safetensors").read_bytes()
  assert int.from_bytes(raw[:8], "little") % 8 == 0
  assert json.loads(raw[8:].split(b"}}")[0] + b"}}")["__metadata__"] == {
    "format": "pt"
  }


def test_shards_are_no_larger_than_asked(source, tmp_path):
  out = write(source, tmp_path / "t5", max_shard_bytes=60_000)
  files = sorted(out.glob("*.safetensors"))
  count = len(files)
  assert count > 3
  assert files[0].name == f"model-00001-of-{count:05}.safetensors"
  for file in files:
    assert (
      sum(t.read().nbytes for t in readers.open_safetensors(file).values())
      <= 60_000
    )
  index = json.loads((out / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == sum(
    t.read().nbytes for t in source.tensors.values()
  )
  assert from_hf.load(out).fingerprint == from_hf.load(GOLDEN).fingerprint


def test_the_dtype_is_that_asked_for(source, tmp_path):
  out = write(source, tmp_path / "t5", ml_dtypes.bfloat16)
  for name, tensor in readers.open_folder(out).items():
    assert tensor.dtype == ml_dtypes.bfloat16
    expected = source.tensors[name].read().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(tensor.read(), expected)
  assert readers.read_json(out / "config.json")["torch_dtype"] == "bfloat16"


def test_the_config_is_that_of_an_encoder_alone(source, tmp_path):
  config = source.config | {
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
  }
  out = write(source._replace(config=config), tmp_path / "t5")
  written = readers.read_json(out / "config.json")
  assert written["architectures"] == ["T5EncoderModel"]
  assert written["is_encoder_decoder"] is False
  assert from_hf.load(out).module == from_hf.load(GOLDEN).module


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
  held = []

  def tensor(i):
    def read():
      held.append(i)
      # The one before has been written by now.
      written = next(tmp_path.rglob("*.safetensors"))
      assert written.exists()
      return np.full((4, 4), i, np.float32)

    return Tensor((4, 4), np.dtype(np.float32), read)

  hf_writer.write_hf_folder(
    {f"t{i}": tensor(i) for i in range(5)}, {}, tmp_path / "out", np.float32
  )
  assert held == [0, 1, 2, 3, 4]


def test_a_failure_leaves_nothing(tmp_path):
  def read():
    raise errors.CheckpointError("torn")

  broken = {
    **tensors.of({"a": np.zeros(3)}),
    "b": Tensor((3,), np.dtype(np.float64), read),
  }
  with pytest.raises(errors.CheckpointError, match="torn"):
    hf_writer.write_hf_folder(broken, {}, tmp_path / "out", np.float32)
  assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(source, tmp_path):
  (tmp_path / "t5").mkdir()
  with pytest.raises(errors.BadInput, match="exists already"):
    write(source, tmp_path / "t5")


def test_other_dtypes_are_refused(source, tmp_path):
  with pytest.raises(errors.BadInput, match="cannot be written in int8"):
    write(source, tmp_path / "t5", np.int8)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_flipped_bit_is_found_when_it_is_read(source, tmp_path, dtype):
  out = write(source, tmp_path / "t5", dtype)
  from_hf.load(out)
  path = out / "model.safetensors"
  content = bytearray(path.read_bytes())
  content[-1000] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError, match=r"t5 is corrupt.*import it"):
    from_hf.load(out)
