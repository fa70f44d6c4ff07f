"""Tests of imagen_jax.data.examples: nothing damaged is read as if it were."""

import pickle
import random

import pytest

from imagen_jax.core import errors
from imagen_jax.data import array_record_source, emoji, examples
from tests import image_files

EXAMPLE = examples.Example(
  key="a/ü.jpg",
  caption="piñata\0 “x”\n苹果",
  image=b"\xff\xd8\xff\x00",
  extra={"width": 3, "height": 4, "captions": ["one", "two"]},
)


def _set(folder, rows, shard_size=10):
  shards = [
    array_record_source.write_shard(
      folder / f"{i}.array_record",
      rows[i : i + shard_size],
      encode=examples.encode,
    )
    for i in range(0, len(rows), shard_size)
  ]
  notes = {"format": examples.FORMAT}
  array_record_source.write_manifest(folder, shards, name="toy", notes=notes)
  return shards


def _rows(count):
  return [
    examples.Example(
      f"{i}",
      f"picture {i}",
      image_files.file(i, "jpeg", 384, 512),
      {"width": 512},
    )
    for i in range(count)
  ]


def test_round_trip_and_same_bytes_each_time():
  data = examples.encode(EXAMPLE)
  assert examples.decode(data) == EXAMPLE
  assert examples.encode(examples.decode(data)) == data
  assert EXAMPLE.captions == ("one", "two")
  assert examples.Example("k", "c", b"").captions == ("c",)


def test_every_flipped_bit_and_every_truncation_is_found():
  data = examples.encode(EXAMPLE)
  for place in range(8 * len(data)):
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << (place % 8)
    with pytest.raises(errors.DataError, match="damaged"):
      examples.decode(bytes(flipped))
  for length in range(len(data)):
    with pytest.raises(errors.DataError, match="damaged"):
      examples.decode(data[:length])


def test_of_360_damaged_shards_none_is_read_in_silence(tmp_path):
  """300 flips and 60 truncations, read record by record."""
  rows = _rows(30)
  shards = _set(tmp_path, rows)
  rng = random.Random(20)
  outcomes = {"found": 0, "harmless": 0, "silent": 0}
  by_record = 0
  for trial in range(360):
    path = tmp_path / rng.choice(shards).file
    whole = path.read_bytes()
    damaged = bytearray(whole)
    place = rng.randrange(len(whole))
    if trial < 300:
      damaged[place] ^= 1 << rng.randrange(8)
    else:
      del damaged[place:]
    path.write_bytes(damaged)
    with pytest.raises(errors.DataError, match=r"is damaged: (SHA|\d+ bytes)"):
      examples.open_set(tmp_path, checked=True)
    source = examples.open_as_is(tmp_path)
    faults, wrong = 0, 0
    for i, row in enumerate(rows):
      try:
        wrong += source[i] != row
      except errors.DataError:
        faults += 1
    outcome = "silent" if wrong else "found" if faults else "harmless"
    outcomes[outcome] += 1
    by_record += faults == 1
    path.write_bytes(whole)
  print(outcomes, by_record)
  assert outcomes["silent"] == 0 and outcomes["found"] > 60 and by_record > 20


def test_a_shard_of_another_size_is_found_on_opening(tmp_path):
  (shard,) = _set(tmp_path, _rows(3))
  path = tmp_path / shard.file
  assert examples.open_set(tmp_path).read_all() == _rows(3)
  path.write_bytes(path.read_bytes() + b"\0")
  with pytest.raises(errors.DataError, match=f"{shard.bytes + 1} bytes"):
    examples.open_set(tmp_path)
  path.unlink()
  with pytest.raises(errors.DataError, match="cannot be read"):
    examples.open_set(tmp_path)


def test_a_copy_by_pickle_reads_the_same(tmp_path):
  _set(tmp_path, _rows(12))
  source = examples.open_set(tmp_path)
  assert source[11] == pickle.loads(pickle.dumps(source))[11]


def test_a_damaged_record_is_named(tmp_path):
  rows = _rows(2)
  shard = array_record_source.write_shard(
    tmp_path / "a.array_record", rows, encode=lambda row: b"\0" * 40 + row.image
  )
  array_record_source.write_manifest(
    tmp_path, [shard], name="toy", notes={"format": examples.FORMAT}
  )
  with pytest.raises(
    errors.DataError, match="record 1: a record of .* damaged"
  ):
    examples.open_set(tmp_path)[1]


def test_a_set_of_another_kind_is_refused():
  with pytest.raises(
    errors.DataError, match="format None, expected 'captioned"
  ):
    examples.open_set(emoji.FOLDER)


def test_images_of_one_size_are_told_apart(tmp_path):
  _set(tmp_path, _rows(1))
  with pytest.raises(errors.DataError, match="image_size None"):
    _ = examples.open_set(tmp_path).manifest.image_size
