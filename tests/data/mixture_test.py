"""Tests of imagen_jax.data.mixture."""

import fractions

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import mixture, order

WEIGHTS = (
  (1,),
  (1, 1),
  (3, 1),
  (1, 3),
  (0.7, 0.3),
  (1, 0, 2),
  (0, 5),
  (5, 0),
  (5, 3, 2, 1e-3, 0, 0.25),
  tuple(range(1, 12)),
)


def _locate(weights, position):
  return mixture.locate(mixture.units(weights), position)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_counts_follow_the_weights_at_every_position(weights):
  p = np.arange(20_000)
  number, _ = _locate(weights, p)
  share = np.array(weights) / sum(weights)
  for i, w in enumerate(share):
    drawn = np.cumsum(number == i)
    assert np.abs(drawn - w * (p + 1)).max() < max(1.02, len(weights) - 1)
    if w == 0:
      assert not drawn.any()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_set_is_read_in_order_without_a_gap(weights):
  number, position = _locate(weights, np.arange(5000))
  for i in range(len(weights)):
    own = position[number == i]
    np.testing.assert_array_equal(own, np.arange(len(own)))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_any_part_is_a_part_of_the_whole(weights):
  whole = _locate(weights, np.arange(300))
  for cut in range(0, 300, 7):
    part = _locate(weights, np.arange(cut, 300))
    np.testing.assert_array_equal(part.number, whole.number[cut:])
    np.testing.assert_array_equal(part.position, whole.position[cut:])


def test_each_set_has_epochs_of_its_own():
  """Each example of each set once before any of that set comes again."""
  sizes = (7, 20, 1)
  number, position = _locate((2, 1, 1), np.arange(400))
  for i, size in enumerate(sizes):
    index = order.index_at(i, position[number == i], size)
    for start in range(0, len(index) - size + 1, size):
      epoch = index[start : start + size]
      np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_weights_of_the_sizes_end_all_sets_at_once():
  sizes = (3, 4, 9)
  number, position = _locate(sizes, np.arange(16))
  for i, size in enumerate(sizes):
    assert sorted(position[number == i]) == list(range(size))


def test_against_fractions():
  weights = (5, 3, 1, 7)
  shares = mixture.units(weights)
  start = (1 << 42) - 50
  number, position = mixture.locate(shares, start + np.arange(50))

  def counts(p):
    rest, left, found = p, sum(shares), []
    for share in shares:
      found.append(int(rest * fractions.Fraction(share, left)))
      rest, left = rest - found[-1], left - share
    return found

  for p, i, k in zip(range(start, start + 50), number, position, strict=True):
    grown = [b - a for a, b in zip(counts(p), counts(p + 1), strict=True)]
    assert grown == [n == i for n in range(4)] and counts(p)[i] == k


@pytest.mark.parametrize(
  ("weights", "match"),
  [
    ((), "not shares"),
    ((0, 0), "one of them above 0"),
    ((1, -1, 2), "not shares"),
    ((1, float("nan")), "not shares"),
    ((1, float("inf")), "not shares"),
    ((1, 1e-9), "weight 1e-09 is less than one in"),
  ],
)
def test_weights_that_are_none(weights, match):
  with pytest.raises(errors.BadInput, match=match):
    mixture.units(weights)
