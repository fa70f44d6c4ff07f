"""Tests of imagen_jax.data.records."""

import dataclasses

import pytest

from imagen_jax.core import errors
from imagen_jax.data import records

RECORD = records.Record(
  codes="1f980",
  label="piñata “x”",
  tags=("cancer", "zodiac"),
  group=3,
  base="1f980",
  image=b"RIFF\x00\xff",
)


def test_round_trip_and_same_bytes_each_time():
  data = records.encode(RECORD)
  assert records.decode(data) == RECORD
  assert records.encode(records.decode(data)) == data
  other = dataclasses.replace(RECORD, label="crab")
  assert records.decode(data) != other


@pytest.mark.parametrize(
  "data", [b"", b"abc", b"\xff\xff\xff\xffxx", b"\x02\x00\x00\x00{}image"]
)
def test_damage_is_a_data_error(data):
  with pytest.raises(errors.DataError, match="damaged"):
    records.decode(data)
