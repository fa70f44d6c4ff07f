"""FID: properties, agreement with scipy's root, few images, streaming."""

import pathlib

import numpy as np
import pytest
import scipy.linalg

from imagen_jax.core import errors
from imagen_jax.evals import frechet

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "fid.npz")
CASES = ("full_rank", "identical_distribution", "rank_deficient")


def normal(n, d, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def test_a_set_is_at_no_distance_from_itself():
  for n in (50, 5):
    a = normal(n, 12)
    assert frechet.frechet_distance(a, a) < 1e-10
    assert frechet.frechet_distance(a, a + 0.1) > 0.1


def test_it_is_symmetric_and_moves_with_the_mean():
  a, b = normal(50, 6), 2 * normal(40, 6, 1)
  one, other = frechet.frechet_distance(a, b), frechet.frechet_distance(b, a)
  assert one == pytest.approx(other, rel=1e-10)
  moved = frechet.frechet_distance(a, a + np.arange(6.0))
  assert moved == pytest.approx(np.square(np.arange(6)).sum(), rel=1e-10)


def test_gaussians_along_the_axes_from_the_formula():
  a, b = normal(500, 3), normal(600, 3, 1)
  a = (a - a.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a.T))).T
  b = (b - b.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(b.T))).T
  found = frechet.frechet_distance(a * [1, 2, 3], b * [2, 2, 5])
  assert found == pytest.approx((1 - 2) ** 2 + (3 - 5) ** 2, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_exact_form(case):
  a, b = GOLDEN[f"{case}_a"], GOLDEN[f"{case}_b"]
  found = frechet.frechet_distance(a, b)
  assert found == pytest.approx(float(GOLDEN[f"{case}_fid_eig"]), rel=1e-6)
  # scipy's root of a singular product is itself off by 6e-9.
  limit = 1e-4 if case == "rank_deficient" else 1e-6
  assert found == pytest.approx(float(GOLDEN[f"{case}_fid_sqrtm"]), rel=limit)


def test_equals_the_root_of_the_product():
  a, b = normal(60, 8), normal(70, 8, 1) @ normal(8, 8, 2)
  root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
  step = a.mean(axis=0) - b.mean(axis=0)
  expected = step @ step + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
  assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_by_moments_and_by_features_are_the_same(case):
  a, b = GOLDEN[f"{case}_a"], GOLDEN[f"{case}_b"]
  found = frechet.distance(frechet.moments(a), frechet.moments(b))
  # Roots of the zero eigenvalues are 1e-8 each.
  assert found == pytest.approx(frechet.frechet_distance(a, b), rel=1e-6)


def test_one_set_of_few_images_is_enough_for_the_short_way():
  a, b = normal(300, 20), normal(7, 20, 1)
  found = frechet.frechet_distance(a, b)
  by_moments = frechet.distance(frechet.moments(a), frechet.moments(b))
  assert found == pytest.approx(by_moments, rel=1e-6)


def test_moments_do_not_depend_on_the_blocks(monkeypatch):
  # Far from the origin, where E[x^2] - E[x]^2 would lose everything.
  x = normal(1000, 5) + 1e6
  whole = frechet.moments(x)
  monkeypatch.setattr(frechet, "_BLOCK", 37)
  found = frechet.moments(x)
  assert found.count == whole.count == 1000
  np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-14)
  np.testing.assert_allclose(found.scatter / 999, np.cov(x.T), atol=1e-8)


def test_float32_features_are_summed_in_float64():
  x = normal(100, 4).astype(np.float32)
  assert frechet.moments(x).scatter.dtype == np.float64


def test_bad_features_are_refused():
  a = normal(10, 4)
  bad = a.copy()
  bad[3, 1] = np.nan
  with pytest.raises(errors.NonFinite, match="of 1 of 10 images.*image 3"):
    frechet.frechet_distance(a, bad)
  with pytest.raises(errors.BadInput, match="at least 2 images.*one has 1"):
    frechet.frechet_distance(a, a[:1])
  with pytest.raises(errors.BadInput, match="4 and 3 numbers"):
    frechet.frechet_distance(a, a[:, :3])
  with pytest.raises(errors.BadInput, match="no images"):
    frechet.moments(a[:0])
  with pytest.raises(errors.BadInput, match="one has 1"):
    frechet.distance(frechet.moments(a[:1]), frechet.moments(a))
  with pytest.raises(errors.NonFinite, match="not finite"):
    frechet.distance(frechet.moments(bad), frechet.moments(a))
