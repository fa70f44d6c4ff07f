"""MMD against its definition; nearness to 0 of equal sets; outliers."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import gaussian_distance

CHANCE = np.random.default_rng(0)
A, B = CHANCE.normal(size=(50, 8)), CHANCE.normal(size=(60, 8))


def test_it_is_the_sum_over_pairs():
  def between(p, q):
    return ((p - q) ** 2).sum()

  scale = np.median([between(B[i], B[j]) for i in range(60) for j in range(i)])

  def mean(one, other):
    pairs = [
      np.exp(-between(p, q) / scale)
      for i, p in enumerate(one)
      for j, q in enumerate(other)
      if one is not other or i != j
    ]
    return np.mean(pairs)

  wanted = 1000 * (mean(A, A) + mean(B, B) - 2 * mean(A, B))
  found = gaussian_distance.interval(A, B)
  np.testing.assert_allclose(found.value, wanted, rtol=1e-9)


def test_only_sets_that_differ_are_apart():
  same = gaussian_distance.interval(A, B)
  assert same.low < 0 < same.high
  other = gaussian_distance.interval(A + 0.5, B)
  assert other.low > same.high


def test_the_interval_holds_the_spread_of_new_sets():
  values = [
    gaussian_distance.interval(
      CHANCE.normal(size=(50, 8)) + 0.5, CHANCE.normal(size=(60, 8)), draws=2
    ).value
    for _ in range(60)
  ]
  found = gaussian_distance.interval(A + 0.5, B)
  ratio = (found.high - found.low) / (2 * 1.96 * np.std(values))
  assert 0.6 < ratio < 1.6


def test_one_outlier_moves_it_little():
  far = A.copy()
  far[0] = 1e6
  apart = gaussian_distance.interval(far, B).value
  assert abs(apart - gaussian_distance.interval(A, B).value) < 2000 / len(A)


def test_sets_of_two_have_an_interval():
  assert np.isfinite(gaussian_distance.interval(A[:2], B[:2])).all()


def test_a_ratio_is_of_pairs():
  near, far = A + 0.5, A + 0.7
  found = gaussian_distance.ratio(far, near, B)
  one, other = (gaussian_distance.interval(x, B) for x in (far, near))
  np.testing.assert_allclose(found.value, one.value / other.value, rtol=1e-9)
  same = gaussian_distance.ratio(near, near, B)
  assert same == (1.0, 1.0, 1.0)
  # Nearer than if each had been drawn alone.
  alone = (one.high - one.low) / other.value
  assert found.low > 1 and found.high - found.low < alone
  with pytest.raises(errors.BadInput, match="row by row"):
    gaussian_distance.ratio(A, A[1:], B)


def test_sets_that_have_no_distance_are_refused():
  with pytest.raises(errors.BadInput, match="the same"):
    gaussian_distance.interval(A, np.zeros((9, 8)))
  with pytest.raises(errors.BadInput, match="at most 8192"):
    gaussian_distance.interval(A, np.zeros((8193, 8)))
