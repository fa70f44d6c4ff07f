r"""Frechet distance of two sets of features, and their streaming moments.

Heusel et al. 2017, arXiv:1706.08500, for Gaussians of the two sets:

  FID = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))

The last trace is taken without a root of a matrix that has none. With n >= d
images it is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2),
which is symmetric; with fewer, of the singular values of A B^T, with A and B
the centred features over sqrt(n - 1). Both are exact where a covariance is
rank-deficient, and neither needs the usual 1e-6 on a diagonal.

All in float64. FID of n images is too large by about a constant over n, so that
numbers of unlike n cannot be compared; `kernel_distance` has no such bias.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors
from imagen_jax.evals import feature_checks

Features: TypeAlias = Float[np.ndarray, "_ _"]  # n d
_BLOCK = 2048  # images a step: 32 MB of float64 for Inception's features


class Moments(NamedTuple):
  """What FID keeps of a set; the covariance is scatter / (count - 1)."""

  count: int
  mean: Float[np.ndarray, "d"]
  scatter: Float[np.ndarray, "d d"]


def moments(features: Features) -> Moments:
  """Count, mean and scatter of all features, block by block."""
  total = None
  for start in range(0, len(features), _BLOCK):
    block = _block_moments(features[start : start + _BLOCK])
    total = block if total is None else merge(total, block)
  if total is None:
    raise errors.BadInput("FID of no images; give some.")
  return total


def merge(a: Moments, b: Moments) -> Moments:
  """The moments of both sets together (Chan et al. 1979)."""
  count = a.count + b.count
  step = b.mean - a.mean
  mean = a.mean + step * (b.count / count)
  between = np.outer(step, step * (a.count * b.count / count))
  return Moments(count, mean, a.scatter + b.scatter + between)


def frechet_distance(features_a: Features, features_b: Features) -> float:
  """FID of two sets of features, each of at least two images."""
  feature_checks.check_pair(features_a, features_b, 2, "FID")
  if min(len(features_a), len(features_b)) >= features_a.shape[1]:
    return distance(moments(features_a), moments(features_b))
  return _of_few(np.float64(features_a), np.float64(features_b))


def distance(a: Moments, b: Moments) -> float:
  """FID of two sets by their moments."""
  for one in (a, b):
    if one.count < 2:
      raise errors.BadInput(
        f"FID needs at least 2 images in each set, and one has {one.count};"
        " give more."
      )
    if not (np.isfinite(one.mean).all() and np.isfinite(one.scatter).all()):
      raise errors.NonFinite(
        "FID: the moments of a set are not finite; compute its features again."
      )
  cov_a, cov_b = (x.scatter / (x.count - 1) for x in (a, b))
  values, vectors = np.linalg.eigh(cov_a)
  half = vectors * np.sqrt(np.maximum(values, 0))  # S_a = half half^T
  product = np.linalg.eigvalsh(half.T @ cov_b @ half)
  root = np.sqrt(np.maximum(product, 0)).sum()
  return _assemble(a.mean - b.mean, np.trace(cov_a), np.trace(cov_b), root)


def _block_moments(block: Features) -> Moments:
  x = np.asarray(block, np.float64)
  mean = x.mean(axis=0)
  centred = x - mean
  return Moments(len(x), mean, centred.T @ centred)


def _of_few(a: Features, b: Features) -> float:
  """FID where a set has fewer images than features have numbers."""
  mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
  a = (a - mean_a) / np.sqrt(len(a) - 1)
  b = (b - mean_b) / np.sqrt(len(b) - 1)
  root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
  return _assemble(
    mean_a - mean_b, np.square(a).sum(), np.square(b).sum(), root
  )


def _assemble(
  step: Float[np.ndarray, "d"], trace_a: float, trace_b: float, root: float
) -> float:
  # Rounding may leave -1e-13 of two equal sets.
  return max(float(step @ step + trace_a + trace_b - 2 * root), 0.0)
