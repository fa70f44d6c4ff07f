"""Digests, and the arrays that find a record."""

import hashlib

import numpy as np
import pytest

from imagen_jax.text import store_index
from tests.text import hashed_job


def test_the_index_equals_a_dictionary():
  captions = [str(i) for i in np.random.default_rng(0).integers(0, 50, 200)]
  index, firsts = store_index.build(store_index.digests(captions))
  numbers = {c: i for i, c in enumerate(dict.fromkeys(captions))}
  assert index.examples.tolist() == [numbers[c] for c in captions]
  assert [captions[i] for i in firsts] == list(numbers)
  assert firsts.tolist() == [captions.index(c) for c in numbers]
  wanted = store_index.digests([*numbers, "not there", ""])
  found = store_index.lookup(index, wanted).tolist()
  assert found == [*numbers.values(), -1, -1]


def test_digests_are_sorted_as_bytes_even_with_zeros_at_the_end():
  rows = np.random.default_rng(0).integers(0, 2, (300, 16)).astype(np.uint8)
  rows[:, 2:14] = 0
  index, _ = store_index.build(np.frombuffer(rows.tobytes(), "S16"))
  expected = sorted({bytes(row) for row in rows})
  assert index.captions.tobytes() == b"".join(expected)


@pytest.mark.parametrize("caption", hashed_job.ODD_CAPTIONS)
def test_any_string_has_a_digest(caption):
  data = caption.encode("utf-8", "replace")
  expected = hashlib.blake2b(data, digest_size=16).digest()
  assert store_index.digest(caption) == expected
  assert store_index.digests([caption]).tobytes() == expected


def test_a_lone_surrogate_is_the_question_mark_that_is_read():
  assert store_index.digest("a\ud800") == store_index.digest("a?")
  assert store_index.digest("a") != store_index.digest("a\0")


def test_captions_are_shown_short_and_in_one_line():
  assert store_index.shown("a red\r\ncar") == r"'a red\r\ncar'"
  assert store_index.shown("x" * 99) == f"'{'x' * 60}'... (99 characters)"
