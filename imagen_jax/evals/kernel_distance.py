"""KID: the unbiased squared distance of two sets in a polynomial kernel.

Binkowski et al. 2018, arXiv:1801.01401, with k(x, y) = (x.y / d + 1)^3:

  KID = sum_{i != j} k(a_i, a_j) / (n (n-1)) + the same of b
        - 2 sum_{i, j} k(a_i, b_j) / (n m)

Its mean does not depend on the number of images, unlike that of FID, so that it
is the one to read where sets are small; it may fall below 0. As the tools do it
is reported as mean and deviation over random subsets, too.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, feature_checks

Features: TypeAlias = Float[np.ndarray, "_ _"]  # n d
_BLOCK = 1024


class OverSubsets(NamedTuple):
  """KID of random subsets: mean, and deviation from one to another."""

  mean: float
  deviation: float


def kernel_distance(features_a: Features, features_b: Features) -> float:
  """KID of all images of two sets, each of at least two."""
  feature_checks.check_pair(features_a, features_b, 2, "KID")
  a, b = np.float64(features_a), np.float64(features_b)
  n, m = len(a), len(b)
  own = (_total(a, a) - _diagonal(a)) / (n * (n - 1))
  other = (_total(b, b) - _diagonal(b)) / (m * (m - 1))
  return float(own + other - 2 * _total(a, b) / (n * m))


def over_subsets(
  features_a: Features,
  features_b: Features,
  *,
  subsets: int = 100,
  size: int = 1000,
  seed: int = 0,
) -> OverSubsets:
  """KID over `subsets` draws of `size` images of each set."""
  least = min(len(features_a), len(features_b))
  if size > least or size < 2 or subsets < 1:
    raise errors.BadInput(
      f"KID over {subsets} subsets of {size} images, but a set has {least};"
      f" take subsets of 2 to {least} images, and at least one."
    )
  feature_checks.check_pair(features_a, features_b, 2, "KID")
  draw = np.random.default_rng(seed)
  values = [
    kernel_distance(
      *(
        features[draw.choice(len(features), size, replace=False)]
        for features in (features_a, features_b)
      )
    )
    for _ in range(subsets)
  ]
  return OverSubsets(float(np.mean(values)), float(np.std(values)))


def over_blocks(
  features_a: Features, features_b: Features, *, blocks: int = 20, seed: int = 0
) -> bootstrap.Interval:
  """The mean of KID over disjoint parts of both sets, with its interval.

  Parts are independent and without bias, so that their mean is too, and their
  spread gives its interval. At 30,000 images it takes a twentieth of the time.
  """
  least = min(len(features_a), len(features_b))
  if not 2 <= blocks <= least // 2:
    raise errors.BadInput(
      f"KID over {blocks} blocks of {least} images; take 2 to {least // 2}."
    )
  feature_checks.check_pair(features_a, features_b, 2, "KID")
  draw = np.random.default_rng(seed)
  parts = [
    np.array_split(draw.permutation(len(features)), blocks)
    for features in (features_a, features_b)
  ]
  values = [
    kernel_distance(features_a[one], features_b[other])
    for one, other in zip(*parts, strict=True)
  ]
  mean = float(np.mean(values))
  half = bootstrap.SIGMAS * float(np.std(values, ddof=1)) / blocks**0.5
  return bootstrap.Interval(mean, mean - half, mean + half)


def _kernel(
  dot: Float[np.ndarray, "*n"], width: int
) -> Float[np.ndarray, "*n"]:
  return (dot / width + 1) ** 3


def _total(a: Features, b: Features) -> float:
  """The kernel's sum over all pairs, in blocks."""
  return sum(
    float(_kernel(a[start : start + _BLOCK] @ b.T, a.shape[1]).sum())
    for start in range(0, len(a), _BLOCK)
  )


def _diagonal(a: Features) -> float:
  return float(_kernel(np.square(a).sum(axis=1), a.shape[1]).sum())
