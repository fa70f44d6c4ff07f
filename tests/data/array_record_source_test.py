"""Tests of imagen_jax.data.array_record_source."""

import json

import pytest

from imagen_jax.core import errors
from imagen_jax.data import array_record_source, records


def _record(i):
  return records.Record(f"{i:x}", f"thing {i}", (), 7, f"{i:x}", bytes([i]) * i)


@pytest.fixture
def folder(tmp_path):
  shards = [
    array_record_source.write_shard(
      tmp_path / f"a-{k}.array_record", [_record(i) for i in part]
    )
    for k, part in enumerate(([0, 1, 2], [3, 4], [5]))
  ]
  array_record_source.write_manifest(
    tmp_path, shards, name="toy", image_size=256, notes={"groups": {"7": 6}}
  )
  return tmp_path


def _edit(folder, change):
  path = folder / array_record_source.MANIFEST
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_random_access_equals_reading_all(folder):
  source = array_record_source.ArrayRecordSource(folder)
  expected = [_record(i) for i in range(6)]
  assert len(source) == 6
  assert source.read_all() == expected
  assert [source[i] for i in (5, 0, 3, 2, 4, 1)] == [
    expected[i] for i in (5, 0, 3, 2, 4, 1)
  ]
  with pytest.raises(IndexError):
    source[6]


def test_fingerprint_follows_the_records(folder):
  before = array_record_source.ArrayRecordSource(folder).fingerprint
  assert before == array_record_source.ArrayRecordSource(folder).fingerprint
  _edit(folder, lambda c: c["shards"].pop())
  assert before != array_record_source.ArrayRecordSource(folder).fingerprint


@pytest.mark.parametrize("place", [0, 40, 1000, -1])
def test_a_flipped_bit_is_found(folder, place):
  path = folder / "a-1.array_record"
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match=r"a-1.array_record' is damaged"):
    array_record_source.ArrayRecordSource(folder)
  assert errors.DataError.exit_code == 4


def test_a_truncated_shard_is_found_even_unchecked(folder):
  path = folder / "a-0.array_record"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.DataError, match="damaged: 100 bytes"):
    array_record_source.ArrayRecordSource(folder)
  source = array_record_source.ArrayRecordSource(folder, checked=False)
  with pytest.raises(errors.DataError, match="0 records, its manifest says 3"):
    source[0]


def test_missing_shard_manifest_or_records(folder, tmp_path_factory):
  with pytest.raises(errors.BadInput, match=r"no manifest.json in"):
    array_record_source.ArrayRecordSource(tmp_path_factory.mktemp("empty"))
  _edit(folder, lambda c: c["shards"][2].update(records=9))
  source = array_record_source.ArrayRecordSource(folder)
  with pytest.raises(errors.DataError, match="has 1 records, its manifest"):
    source[5]
  (folder / "a-2.array_record").unlink()
  with pytest.raises(errors.DataError, match="cannot be read"):
    array_record_source.ArrayRecordSource(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shards": [{}]}'])
def test_a_bad_manifest_is_one_line(folder, text):
  (folder / array_record_source.MANIFEST).write_text(text)
  with pytest.raises(errors.DataError, match="not a manifest") as caught:
    array_record_source.ArrayRecordSource(folder)
  assert "\n" not in str(caught.value)
