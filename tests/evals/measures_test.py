"""KID, Inception score, precision and recall, and intervals."""

import pathlib

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import (
  bootstrap,
  inception_score,
  kernel_distance,
  precision_recall,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "fid.npz")


def normal(n, d, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def test_kid_has_no_bias():
  values = [
    kernel_distance.kernel_distance(normal(20, 8, i), normal(30, 8, 999 + i))
    for i in range(400)
  ]
  error = np.std(values) / 20
  assert abs(np.mean(values)) < 3 * error
  assert min(values) < 0
  apart = kernel_distance.kernel_distance(normal(20, 8), 1 + normal(30, 8, 1))
  assert apart > 10 * np.std(values)


def test_kid_from_its_definition(monkeypatch):
  monkeypatch.setattr(kernel_distance, "_BLOCK", 3)
  a, b = normal(7, 4), normal(9, 4, 1) + 0.5

  def mean(x, y, same):
    pairs = [
      (p @ q / 4 + 1) ** 3
      for i, p in enumerate(x)
      for j, q in enumerate(y)
      if not (same and i == j)
    ]
    return np.mean(pairs)

  expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
  found = kernel_distance.kernel_distance(a, b)
  assert found == pytest.approx(expected, rel=1e-12)


def test_kid_equals_the_oracle():
  a, b = GOLDEN["full_rank_a"], GOLDEN["full_rank_b"]
  found = kernel_distance.kernel_distance(a, b)
  assert found == pytest.approx(float(GOLDEN["full_rank_kid"]), rel=1e-6)


def test_kid_over_subsets():
  a, b = GOLDEN["full_rank_a"], GOLDEN["full_rank_b"]
  found = kernel_distance.over_subsets(a, b, subsets=30, size=100)
  expected = kernel_distance.kernel_distance(a, b)
  assert abs(found.mean - expected) < 3 * found.deviation / 30**0.5
  again = kernel_distance.over_subsets(a, b, subsets=30, size=100)
  assert again == found
  with pytest.raises(errors.BadInput, match="of 401 images, but a set has 400"):
    kernel_distance.over_subsets(a, b, size=401)


def test_the_inception_score_of_sure_and_of_unsure():
  sure = 100 * np.eye(5)[np.arange(20) % 5]
  assert inception_score.inception_score(sure) == pytest.approx(5)
  alike = np.tile(normal(1, 5), (20, 1))
  assert inception_score.inception_score(alike) == pytest.approx(1)
  assert inception_score.over_parts(sure, 1) == pytest.approx((5, 0))


def test_the_inception_score_equals_the_oracle():
  found = inception_score.inception_score(GOLDEN["is_logits"])
  assert found == pytest.approx(float(GOLDEN["is_value"]), rel=1e-6)
  shifted = GOLDEN["is_logits"] + 1000
  assert inception_score.inception_score(shifted) == pytest.approx(found)


def test_the_inception_score_over_parts():
  found = inception_score.over_parts(GOLDEN["is_logits"], 4)
  assert 0 < found.deviation < 1
  assert found == inception_score.over_parts(GOLDEN["is_logits"], 4)
  with pytest.raises(errors.BadInput, match="over 6 parts of 5 images"):
    inception_score.over_parts(normal(5, 3), 6)


def test_precision_and_recall_of_a_part_and_of_the_whole():
  draw = np.random.default_rng(0)
  real = draw.uniform(-1, 1, (400, 2))
  inner = 0.4 * draw.uniform(-1, 1, (400, 2))
  found = precision_recall.precision_recall(inner, real)
  # A ball holds 3 points, so a point is in about 3: in none with e^-3.
  assert found.precision == pytest.approx(1 - np.exp(-3), abs=0.03)
  assert 0.1 < found.recall < 0.25  # 0.4^2 of the area
  other = precision_recall.precision_recall(real, inner)
  assert other == (found.recall, found.precision)
  far = precision_recall.precision_recall(real + 10, real)
  assert far == (0, 0)


def test_precision_and_recall_from_their_definition(monkeypatch):
  monkeypatch.setattr(precision_recall, "_BLOCK", 4)
  a, b = normal(11, 3), normal(13, 3, 1) + 0.7

  def within(points, manifold):
    def apart(x):
      return np.sort(np.linalg.norm(manifold - x, axis=1))

    radii = [apart(x)[2] for x in manifold]  # of itself, first, second
    inside = [
      any(
        np.linalg.norm(p - x) <= r for x, r in zip(manifold, radii, strict=True)
      )
      for p in points
    ]
    return np.mean(inside)

  found = precision_recall.precision_recall(a, b, neighbours=2)
  assert found == (within(a, b), within(b, a))
  assert 0 < found.precision < 1


def test_few_images_and_nan_are_refused():
  a = normal(10, 4)
  bad = a.copy()
  bad[9] = np.inf
  with pytest.raises(errors.BadInput, match="at least 4 images.*one has 3"):
    precision_recall.precision_recall(a, a[:3])
  with pytest.raises(errors.BadInput, match="0 neighbours"):
    precision_recall.precision_recall(a, a, neighbours=0)
  with pytest.raises(errors.NonFinite, match="image 9"):
    kernel_distance.kernel_distance(bad, a)
  with pytest.raises(errors.NonFinite, match="image 9"):
    inception_score.inception_score(bad)
  with pytest.raises(errors.NonFinite, match="image 9"):
    precision_recall.precision_recall(a, bad)


def test_an_interval_covers_the_mean_as_often_as_it_says():
  covered = 0
  for seed in range(200):
    rows = normal(40, 1, seed)
    found = bootstrap.interval(np.mean, [rows], draws=60, seed=seed)
    assert found.value == rows.mean()
    covered += found.low < 0 < found.high
  assert 180 <= covered <= 199


def test_an_interval_resamples_each_set_alone():
  a = normal(30, 2)

  def twins(x, y):
    return float(np.abs(x - y).max())

  found = bootstrap.interval(twins, [a, a], draws=5)
  assert found.value == 0
  assert found.high > 0
  with pytest.raises(errors.BadInput, match="1 draws"):
    bootstrap.interval(twins, [a, a], draws=1)
