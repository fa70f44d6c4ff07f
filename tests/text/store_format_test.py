"""Rows as bytes, sizes, and what a manifest may not be."""

import json

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import store_format

WIDTH = 64


def _row(m=12):
  """Tokens of very different sizes."""
  draws = np.random.default_rng(0).standard_normal((m, WIDTH))
  return (draws * np.logspace(-3, 3, m)[:, None]).astype(np.float32)


def _through(row, dtype):
  data = store_format.encode_row(row, dtype)
  assert len(data) == len(row) * store_format.bytes_per_token(dtype, WIDTH)
  return store_format.decode_row(data, dtype, WIDTH)


def _int8_error(row):
  """The error of each token, in steps of its own scale."""
  scale = np.abs(row.astype(np.float64)).max(axis=1, keepdims=True) / 127
  return np.abs(_through(row, "int8") - row.astype(np.float64)).max(1) / scale.T


def test_bfloat16_rounds_once_and_then_is_exact():
  row = _row()
  once = _through(row, "bfloat16")
  np.testing.assert_array_equal(once, row.astype(ml_dtypes.bfloat16))
  np.testing.assert_array_equal(_through(once, "bfloat16"), once)
  assert (once != row).any()


def test_int8_is_off_by_half_a_step_of_the_token_at_most():
  assert (_int8_error(_row()) <= 0.5 + 1e-5).all()


def test_the_half_step_is_reached():
  assert (_int8_error(_row()) > 0.4).any()


def test_int8_keeps_the_extremes_and_zeros():
  row = _row()
  row[3] = 0
  found = _through(row, "int8")
  np.testing.assert_array_equal(found[3], 0)
  ends = np.abs(row).argmax(1)[:, None]
  np.testing.assert_allclose(
    np.take_along_axis(found, ends, 1),
    np.take_along_axis(row, ends, 1),
    rtol=1e-6,
  )


@pytest.mark.parametrize("value", [1e-44, 1e-40, 1e38, -3e38])
def test_int8_at_the_ends_of_float32(value):
  row = np.full((1, WIDTH), value, np.float32)
  np.testing.assert_allclose(_through(row, "int8"), row, rtol=0.01, atol=2e-43)


@pytest.mark.parametrize("dtype", store_format.DTYPES)
def test_no_tokens_are_no_bytes(dtype):
  row = np.zeros((0, WIDTH), np.float32)
  assert store_format.encode_row(row, dtype) == b""
  assert _through(row, dtype).shape == (0, WIDTH)


def test_bytes_that_are_no_whole_tokens():
  with pytest.raises(ValueError, match="129 bytes are not tokens of width 64"):
    store_format.decode_row(b"x" * 129, "bfloat16", WIDTH)


def test_differences_name_each_field_that_is_asked_for():
  has = store_format.Identity("t5", "a" * 64, "b" * 64, 77, 8, "none")
  asked = store_format.Identity("clip", "c" * 64, None, 77, None, "lower")
  found = store_format.differences(has._asdict(), asked._asdict())
  assert found == (
    'encoder: the store has "t5", asked was "clip"; weights: the store has'
    f' "{"a" * 12}..., asked was "{"c" * 12}...; clean: the store has "none",'
    ' asked was "lower"'
  )
  nothing = store_format.Identity()._asdict()
  assert store_format.differences(has._asdict(), nothing) == ""


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "not the manifest"),
    ("[]", "not the manifest"),
    ('{"shards": [], "records": 3}', "not the manifest"),
    ('{"format": 2}', "format 2, not 1"),
    ('{"format": 1, "dtype": "float8"}', "dtype 'float8'"),
  ],
)
def test_another_manifest_is_one_line(tmp_path, text, message):
  (tmp_path / "manifest.json").write_text(text)
  with pytest.raises(errors.DataError, match=message) as caught:
    store_format.read_manifest(tmp_path)
  assert "\n" not in str(caught.value)


def test_no_manifest_and_no_manifest_yet(tmp_path):
  with pytest.raises(errors.BadInput, match=r"no manifest.json in"):
    store_format.read_manifest(tmp_path / "nowhere")
  (tmp_path / ".parts").mkdir()
  with pytest.raises(errors.DataError, match="is not finished; run `imagen"):
    store_format.read_manifest(tmp_path)


def test_the_manifest_is_read_as_it_is_written(tmp_path):
  identity = store_format.Identity("t5", "w", "t", 77, 8, "none")
  plan = store_format.make_plan(
    identity,
    dtype="int8",
    shard_size=2,
    captions_sha256="c",
    settings={"batch_size": 4},
  )
  shards = [store_format.Shard(f"{i}", 2, 5 + i, i, 9, "s") for i in range(2)]
  indexes = [store_format.IndexFile("captions.npy", 7, "i")]
  content = store_format.to_json(
    plan, examples=6, shards=shards, indexes=indexes
  )
  (tmp_path / "manifest.json").write_text(json.dumps(content))
  manifest = store_format.read_manifest(tmp_path)
  assert manifest.plan == plan
  assert manifest.identity == identity
  assert (manifest.shards, manifest.indexes) == (tuple(shards), tuple(indexes))
  counts = (manifest.examples, manifest.captions, manifest.tokens)
  assert (*counts, manifest.truncated) == (6, 4, 11, 1)
