"""Our stage files: round trip, digest, atomic writing."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors, files
from imagen_jax.weights import native


def params():
  rng = np.random.default_rng(0)
  return {
    "down_0": {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4))}},
    "head": {"bias": rng.normal(size=4).astype(np.float32)},
    "scale": jnp.float32(1.5),
    "table": np.arange(3, dtype=np.int32),
  }


def test_float32_round_trip_is_exact(tmp_path):
  path = tmp_path / "base.safetensors"
  tree = params()
  conv = tree["down_0"]["conv"]
  conv["kernel"] = conv["kernel"].astype(np.float32)
  digest = native.save_params(path, tree, {"stage": "{}"}, dtype=jnp.float32)
  loaded, metadata = native.load_params(path)
  assert metadata == {"stage": "{}", "content_sha256": digest}
  kernel = loaded["down_0"]["conv"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, conv["kernel"])
  np.testing.assert_array_equal(loaded["table"], tree["table"])
  assert loaded["table"].dtype == np.int32
  assert loaded["scale"].shape == ()


def test_default_is_bfloat16_on_disk_and_float32_in_memory(tmp_path):
  path = tmp_path / "base.safetensors"
  native.save_params(path, params(), {})
  stored, _ = native.load_params(path, dtype=None)
  assert stored["head"]["bias"].dtype == ml_dtypes.bfloat16
  loaded, _ = native.load_params(path)
  expected = params()["head"]["bias"].astype(ml_dtypes.bfloat16)
  assert loaded["head"]["bias"].dtype == np.float32
  np.testing.assert_array_equal(loaded["head"]["bias"], expected)
  assert np.any(loaded["head"]["bias"] != params()["head"]["bias"])


def test_names_are_slash_paths(tmp_path):
  path = tmp_path / "base.safetensors"
  native.save_params(path, params(), {})
  assert safetensors.numpy.load_file(path).keys() == {
    "down_0/conv/kernel",
    "head/bias",
    "scale",
    "table",
  }


def test_loaded_arrays_do_not_hold_the_file(tmp_path):
  path = tmp_path / "base.safetensors"
  native.save_params(path, params(), {}, dtype=jnp.float32)
  loaded, _ = native.load_params(path)
  loaded["head"]["bias"][:] = 0.0
  again, _ = native.load_params(path)
  assert np.any(again["head"]["bias"])


def test_digest_depends_on_content_alone(tmp_path):
  a = native.save_params(tmp_path / "a", params(), {"by": "me"})
  b = native.save_params(tmp_path / "b", params(), {})
  changed = params() | {"scale": jnp.float32(2.0)}
  c = native.save_params(tmp_path / "c", changed, {})
  assert a == b != c


def test_a_flipped_bit_is_found(tmp_path):
  path = tmp_path / "base.safetensors"
  native.save_params(path, params(), {})
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError, match=r"corrupt.*sha256"):
    native.load_params(path)


def test_other_files_are_refused(tmp_path):
  path = tmp_path / "other.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(3)}, path)
  with pytest.raises(errors.CheckpointError, match="not written by this"):
    native.load_params(path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "base.safetensors"
  native.save_params(path, params(), {"version": "old"})

  def full_disk(path, data):
    raise OSError("no space left on device")

  monkeypatch.setattr(files, "atomic_write", full_disk)
  with pytest.raises(OSError, match="no space"):
    native.save_params(path, params(), {"version": "new"})
  assert native.load_params(path)[1]["version"] == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["base.safetensors"]


def test_metadata_must_be_text(tmp_path):
  # The inner function: type-checked tests stop at the outer signature.
  with pytest.raises(errors.BadInput, match="'steps' is int, expected str"):
    native._check_metadata({"steps": 3})
  with pytest.raises(errors.BadInput, match="reserved"):
    native.save_params(tmp_path / "a", {}, {"content_sha256": "0"})
