"""Tests of imagen_jax.data.draws."""

import hashlib

import numpy as np

from imagen_jax.data import draws


def test_a_slice_is_a_slice_of_the_stream():
  whole = draws.uniform(7, "object", np.arange(1000))
  part = draws.uniform(7, "object", np.arange(300, 400))
  np.testing.assert_array_equal(part, whole[300:400])
  one = draws.uniform(7, "object", np.array([999]))
  assert one[0] == whole[999]


def test_even_and_uncorrelated():
  n = 100_000
  index = np.arange(n)
  streams = [
    draws.uniform(0, "a", index),
    draws.uniform(0, "b", index),
    draws.uniform(1, "a", index),
    np.roll(draws.uniform(0, "a", index), 1),
  ]
  for u in streams:
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 100, (0, 1))[0]
    # Chi-squared of 99 degrees: mean 99, deviation 14.
    assert np.square(counts - n / 100).sum() / (n / 100) < 99 + 5 * 14
  correlation = np.corrcoef(streams) - np.eye(len(streams))
  assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_against_the_published_generator():
  """SplitMix64 with Python's integers."""
  mask = 2**64 - 1
  state = int.from_bytes(hashlib.sha256(b"3/x").digest()[:8], "little")
  for i in range(5):
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    z ^= z >> 31
    assert draws.uniform(3, "x", np.array([i]))[0] == (z >> 11) / 2**53


def test_integers_cover_their_range():
  found = draws.integers(0, "k", np.arange(1000), 5)
  assert sorted(set(found.tolist())) == [0, 1, 2, 3, 4]
