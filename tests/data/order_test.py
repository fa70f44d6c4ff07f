"""Tests of imagen_jax.data.order."""

import itertools

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import draws, order

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 99, 100, 101, 1000, 65536, 99991)


@pytest.mark.parametrize("size", SIZES)
def test_each_epoch_is_a_permutation(size):
  for epoch in (0, 1, 7, 10**6):
    found = order.index_at(3, epoch * size + np.arange(size), size)
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [1, 7, 24])
def test_two_epochs_from_every_cut(size):
  """A run cut anywhere goes on where it was: none twice, none left out."""
  whole = order.index_at(0, np.arange(2 * size), size)
  for cut in range(2 * size):
    after = order.index_at(0, np.arange(cut, 2 * size), size)
    np.testing.assert_array_equal(np.append(whole[:cut], after), whole)
  np.testing.assert_array_equal(np.bincount(whole), np.full(size, 2))


def test_epochs_seeds_and_neighbours_differ():
  size = 10_000
  columns = [
    order.index_at(seed, epoch * size + np.arange(size), size)
    for seed, epoch in itertools.product((0, 1, 2**40), (0, 1, 2))
  ]
  assert not any(
    (column == np.arange(size)).mean() > 0.002 for column in columns
  )
  for one, other in itertools.combinations(columns, 2):
    assert (one == other).mean() < 0.002  # one in 10,000 by chance
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
  for column in columns:
    assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("size", [3, 5, 6, 24])
def test_every_example_is_equally_often_at_every_place(size):
  epochs = 4000
  found = order.index_at(1, np.arange(epochs * size), size).reshape(-1, size)
  counts = np.stack([np.bincount(row, minlength=size) for row in found.T])
  expected = epochs / size
  # Chi-squared of (size - 1)^2 degrees.
  freedom = (size - 1) ** 2
  measured = np.square(counts - expected).sum() / expected
  assert measured < freedom + 5 * np.sqrt(2 * freedom)


def test_all_orders_of_a_small_set_occur():
  found = order.index_at(5, np.arange(3 * 6000), 3).reshape(-1, 3)
  counts = np.unique(found, axis=0, return_counts=True)[1]
  assert len(counts) == 6 and counts.min() > 800  # 1,000 by chance


def test_large_sets_are_reached_at_once():
  size = 5_000_000_000
  position = np.array([0, 1, size - 1, size, 2 * size - 1])
  found = order.index_at(0, position, size)
  assert ((found >= 0) & (found < size)).all() and len(set(found)) == 5
  sample = order.index_at(0, np.arange(100_000), size)
  assert len(np.unique(sample)) == len(sample)
  counts = np.histogram(sample, 100, (0, size))[0]
  assert np.square(counts - 1000).sum() / 1000 < 99 + 5 * 14


def test_against_integers_of_python():
  """The network once more, for one index, a = 4 and b = 3 of a set of 11."""

  def hashed(name, value, bound):
    return int(draws.integers(9, name, np.array([value]), bound)[0])

  def once(epoch, index):
    key = hashed("epoch", epoch, 2**53)
    left, right = index % 4, index // 4
    for number in (0, 2, 4, 6):
      left = (left + hashed(f"order {number}", right ^ key, 4)) % 4
      right = (right + hashed(f"order {number + 1}", left ^ key, 3)) % 3
    index = left + 4 * right
    return index if index < 11 else once(epoch, index)

  position = np.arange(33)
  expected = [once(p // 11, p % 11) for p in position.tolist()]
  np.testing.assert_array_equal(order.index_at(9, position, 11), expected)


def test_an_empty_set():
  with pytest.raises(errors.BadInput, match="0 examples"):
    order.index_at(0, np.arange(3), 0)
