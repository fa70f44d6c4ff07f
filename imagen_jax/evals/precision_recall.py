"""Precision and recall by nearest neighbours in the space of features.

Kynkaanniemi et al. 2019, arXiv:1904.06991. A set's manifold is the union of
balls around its features, each as wide as to its k-th neighbour:

  precision  share of generated images within the real manifold
  recall     share of real images within the generated manifold

Distances come block by block, in float64, so that memory stays small.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.core import errors
from imagen_jax.evals import feature_checks

Features: TypeAlias = Float[np.ndarray, "_ _"]  # n d
_BLOCK = 512


class PrecisionRecall(NamedTuple):
  """Both in [0, 1]."""

  precision: float
  recall: float


class Covered(NamedTuple):
  """Which images lie within the other set's manifold."""

  generated: Bool[np.ndarray, "n"]
  real: Bool[np.ndarray, "m"]


def precision_recall(
  generated: Features, real: Features, *, neighbours: int = 3
) -> PrecisionRecall:
  """Of generated to real images; each set has more images than neighbours."""
  found = covered(generated, real, neighbours=neighbours)
  return PrecisionRecall(
    float(found.generated.mean()), float(found.real.mean())
  )


def covered(
  generated: Features, real: Features, *, neighbours: int = 3
) -> Covered:
  """Image by image what `precision_recall` has the shares of."""
  if neighbours < 1:
    raise errors.BadInput(
      f"precision and recall with {neighbours} neighbours; take at least 1."
    )
  feature_checks.check_pair(
    generated, real, neighbours + 1, "precision and recall"
  )
  generated, real = np.float64(generated), np.float64(real)
  return Covered(
    _within(generated, real, neighbours), _within(real, generated, neighbours)
  )


def _within(
  points: Features, manifold: Features, neighbours: int
) -> Bool[np.ndarray, "_"]:
  """Which points lie in some ball of the manifold."""
  radii = np.concatenate(
    [
      # The nearest is the point itself.
      np.partition(_squared(block, manifold), neighbours, axis=1)[:, neighbours]
      for block in _blocks(manifold)
    ]
  )
  return np.concatenate(
    [
      (_squared(block, manifold) <= radii).any(axis=1)
      for block in _blocks(points)
    ]
  )


def _blocks(x: Features) -> list[Features]:
  return [x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK)]


def _squared(
  a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
  lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
  return np.maximum(lengths - 2 * a @ b.T, 0)
