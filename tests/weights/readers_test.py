"""Readers: views of the file, and one clear line for a bad one."""

import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors
from imagen_jax.weights import readers

ARRAYS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(4).astype(ml_dtypes.bfloat16),
  "scalar": np.array(3.5),
  "empty": np.zeros((0, 2), np.float16),
  "ids": np.arange(5, dtype=np.int64),
  "flags": np.array([True, False, True]),
}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(ARRAYS, path, {"format": "pt"})
  return path


def message(path, kind=errors.CheckpointError):
  with pytest.raises(kind) as caught:
    readers.read_safetensors(path)
  text = str(caught.value)
  assert str(path) in text
  assert "\n" not in text
  return text


def test_what_was_written_is_read(path):
  arrays, metadata = readers.read_safetensors(path)
  assert metadata == {"format": "pt"}
  assert arrays.keys() == ARRAYS.keys()
  for name, expected in ARRAYS.items():
    assert arrays[name].dtype == expected.dtype
    assert arrays[name].shape == expected.shape
    np.testing.assert_array_equal(arrays[name], expected)


def test_agrees_with_the_library(path):
  arrays = readers.read_safetensors(path).arrays
  for name, expected in safetensors.numpy.load_file(path).items():
    np.testing.assert_array_equal(arrays[name], expected)


def test_arrays_are_read_only_views_of_the_file(path):
  array = readers.read_safetensors(path).arrays["a.weight"]
  base = array
  while getattr(base, "base", None) is not None:
    if isinstance(base, np.memmap):
      break
    base = base.base
  assert isinstance(base, np.memmap)
  with pytest.raises(ValueError, match="read-only"):
    array[0, 0] = 1.0


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated(path, keep):
  path.write_bytes(path.read_bytes()[:keep])
  assert "corrupt or incomplete" in message(path)


def test_extra_bytes(path):
  path.write_bytes(path.read_bytes() + b"x")
  assert "corrupt or incomplete" in message(path)


def test_damaged_header(path):
  content = bytearray(path.read_bytes())
  content[9] = 0xFF
  path.write_bytes(content)
  assert "corrupt or incomplete" in message(path)


def test_missing(tmp_path):
  text = message(tmp_path / "none.safetensors", errors.BadInput)
  assert "does not exist" in text


def test_folder(tmp_path):
  assert "is a folder" in message(tmp_path, errors.BadInput)


def test_pickle_is_refused_unopened(tmp_path):
  path = tmp_path / "model.bin"

  class Bomb:
    def __reduce__(self):
      return (pytest.fail, ("the pickle ran",))

  path.write_bytes(pickle.dumps(Bomb()))
  assert "is a Python pickle" in message(path)


def test_torch_zip_is_refused(tmp_path):
  path = tmp_path / "model.pt"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("data.pkl", b"")
  assert "torch.save" in message(path)


def test_lfs_pointer_is_named(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  assert "Git LFS pointer" in message(path)


def test_unknown_dtype_is_refused(path):
  content = path.read_bytes()
  path.write_bytes(content.replace(b'"F32"', b'"X32"'))
  message(path)


def test_json(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"a": 1}))
  assert readers.read_json(path) == {"a": 1}
  path.write_text('{"a": ')
  with pytest.raises(errors.CheckpointError, match="not readable JSON"):
    readers.read_json(path)
  path.write_bytes(b"\xff\xfe")
  with pytest.raises(errors.CheckpointError, match="not readable JSON"):
    readers.read_json(path)
  path.write_text("[]")
  with pytest.raises(errors.CheckpointError, match="expected an object"):
    readers.read_json(path)
  with pytest.raises(errors.BadInput, match="does not exist"):
    readers.read_json(tmp_path / "none.json")
