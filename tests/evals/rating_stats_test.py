"""Rates of choices with intervals, and agreement, against known numbers."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import rating_stats
from imagen_jax.evals.rating_stats import Vote


def votes(table):
  """Rows of raters, columns of items; None is no answer."""
  return [
    Vote(rater, item, value)
    for rater, row in enumerate(table)
    for item, value in enumerate(row)
    if value is not None
  ]


def test_wilson_is_the_root_of_its_equation():
  """|p - q| = z sqrt(q (1 - q) / n) at both ends q."""
  for rate, n in ((0.395, 73), (0.0, 5), (1.0, 20), (0.5, 1)):
    for end in rating_stats.wilson(rate, n):
      deviation = 1.959964 * np.sqrt(end * (1 - end) / n)
      assert abs(rate - end) == pytest.approx(deviation, abs=1e-6)


def test_an_interval_covers_the_truth_where_raters_and_items_differ():
  """In 95 of 100 studies or more, of raters and items with effects."""
  draw = np.random.default_rng(0)
  covered = 0
  for _ in range(100):
    p = 0.6 + draw.normal(0, 0.15, (5, 1)) + draw.normal(0, 0.2, (1, 20))
    answers = (draw.random((5, 20)) < np.clip(p, 0, 1)).astype(float)
    found = rating_stats.rate(votes(answers.tolist()), draws=200)
    covered += found.low <= 0.6 <= found.high
  assert covered >= 93  # Wilson alone: 70


def test_all_alike_still_leave_doubt():
  found = rating_stats.rate(votes([[1.0] * 4]), draws=50)
  assert found.value == found.high == 1
  assert found.low == pytest.approx(rating_stats.wilson(1.0, 4)[0])


def test_few_raters_widen_the_interval():
  split = votes([[1.0] * 50, [0.0] * 50])
  assert rating_stats.rate(split, draws=200).low == 0
  mixed = votes([[1.0, 0.0] * 25, [0.0, 1.0] * 25])
  assert rating_stats.rate(mixed, draws=200).low > 0.3


def test_alpha_of_a_published_example():
  """Four observers, twelve units: 0.849 (Krippendorff 2011, interval data)."""
  o = None
  table = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, o, o, o],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, o, 3],
    [o, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, o],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, o],
  ]
  found = rating_stats.krippendorff_alpha(votes(table))
  assert found == pytest.approx(0.849, abs=5e-4)


def test_agreement_at_its_ends():
  alpha, same = rating_stats.krippendorff_alpha, rating_stats.same_share
  alike = votes([[1.0, 0.0, 0.5], [1.0, 0.0, 0.5]])
  assert (alpha(alike), same(alike)) == (1, 1)
  against = votes([[1.0, 0.0], [0.0, 1.0]])
  assert alpha(against) == pytest.approx(-0.5)
  assert same(against) == 0
  assert alpha(votes([[1.0, 0.0]])) is same(votes([[1.0, 0.0]])) is None
  assert alpha(votes([[1.0, 1.0], [1.0, 1.0]])) is None


def test_what_is_refused():
  with pytest.raises(errors.BadInput, match="no answer was given"):
    rating_stats.rate([])
  with pytest.raises(errors.BadInput, match=r"must be in \[0, 1\]"):
    rating_stats.rate([Vote(0, 0, 2.0)])
