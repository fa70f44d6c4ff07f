"""MMD with a Gaussian kernel: a bounded distance of two small sets.

Gretton et al. 2012, with k(x, y) = exp(-|x - y|^2 / s), s the median squared
distance of the second set's rows:

  MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j)
          - 2 mean_{i, j} k(a_i, b_j)

It is unbiased, so that it does not depend on the number of images and may fall
below 0; 0 is a sample of the same. Unlike KID's cubic kernel no single outlier
moves it by more than 2/n, which features without a network need. As Jayasumana
et al. 2024 (CMMD, arXiv:2401.09603) do, it is reported times 1,000.
"""

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, feature_checks

_MOST = 8192  # rows of a set: kernels are kept whole, 8 * n^2 bytes


def interval(
  features_a: Float[np.ndarray, "n d"],
  features_b: Float[np.ndarray, "m d"],
  *,
  draws: int = 100,
  seed: int = 0,
) -> bootstrap.Interval:
  """MMD^2 times 1,000 with its 95 % interval over both sets.

  A draw takes rows with replacement; a row's pair with itself is left out, so
  that draws are as unbiased as the distance.
  """
  feature_checks.check_pair(features_a, features_b, 2, "MMD")
  if max(len(features_a), len(features_b)) > _MOST:
    raise errors.BadInput(
      f"MMD of {len(features_a)} and {len(features_b)} images; take at most"
      f" {_MOST} of each."
    )
  kernels = _kernels(np.float64(features_a), np.float64(features_b))
  own_a, own_b, both = kernels
  chance = np.random.default_rng(seed)
  chosen = [
    (_counts(len(own_a), chance), _counts(len(own_b), chance))
    for _ in range(draws)
  ]
  ones = (np.ones(len(own_a)), np.ones(len(own_b)))
  value, *drawn = (
    1000
    * (_pairs(own_a, a) + _pairs(own_b, b) - 2 * a @ both @ b / len(a) / len(b))
    for a, b in (ones, *chosen)
  )
  half = 1.96 * float(np.std(drawn, ddof=1))
  return bootstrap.Interval(
    float(value), float(value - half), float(value + half)
  )


def ratio(
  features_a: Float[np.ndarray, "n d"],
  features_b: Float[np.ndarray, "k d"],
  reference: Float[np.ndarray, "m d"],
  *,
  draws: int = 100,
  seed: int = 0,
) -> bootstrap.Interval:
  """MMD^2 of a to the reference over that of b, with its 95 % interval.

  Row i of a and of b are of one prompt: a draw takes the same rows of both, and
  one draw of the reference, so that what they share cancels. It says little
  where b is as near to the reference as the interval of its distance is wide.
  """
  if len(features_a) != len(features_b):
    raise errors.BadInput(
      f"{len(features_a)} and {len(features_b)} images to compare in pairs;"
      " give as many of both, row by row of the same prompts."
    )
  parts = []
  for rows in (features_a, features_b):
    feature_checks.check_pair(rows, reference, 2, "MMD")
    parts.append(_kernels(np.float64(rows), np.float64(reference)))
  chance = np.random.default_rng(seed)
  n, m = len(features_a), len(reference)
  values = []
  for draw in range(draws + 1):  # the first takes each row once
    rows, real = (
      _counts(size, chance) if draw else np.ones(size) for size in (n, m)
    )
    one, other = (
      _pairs(own, rows) + _pairs(own_b, real) - 2 * rows @ both @ real / n / m
      for own, own_b, both in parts
    )
    values.append(one / other)
  half = bootstrap.SIGMAS * float(np.std(values[1:], ddof=1))
  return bootstrap.Interval(values[0], values[0] - half, values[0] + half)


def _kernels(
  a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> tuple[
  Float[np.ndarray, "n n"], Float[np.ndarray, "m m"], Float[np.ndarray, "n m"]
]:
  own_b = _squares(b, b)
  scale = float(np.median(own_b[~np.eye(len(b), dtype=bool)]))
  if scale <= 0:
    raise errors.BadInput(
      "more than half of the reference's images are the same; give other ones."
    )
  kernels = (
    np.exp(-s / scale) for s in (_squares(a, a), own_b, _squares(a, b))
  )
  return tuple(kernels)


def _squares(
  a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
  """Squared distances of all pairs."""
  total = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None]
  return np.maximum(total - 2 * a @ b.T, 0)


def _counts(n: int, chance: np.random.Generator) -> Float[np.ndarray, "n"]:
  """How often each row is in a draw of n, two of them at least."""
  while True:
    counts = np.bincount(chance.integers(n, size=n), minlength=n)
    if (counts > 0).sum() > 1:
      return counts.astype(np.float64)


def _pairs(
  kernel: Float[np.ndarray, "n n"], counts: Float[np.ndarray, "n"]
) -> float:
  """The kernel's mean over pairs of two rows, each row `counts` times."""
  squares = np.square(counts)
  total = counts @ kernel @ counts - squares @ np.diagonal(kernel)
  return total / (counts.sum() ** 2 - squares.sum())
