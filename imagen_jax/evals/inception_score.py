"""Inception score: exp of the mean KL(p(class | image) || p(class)).

Salimans et al. 2016, arXiv:1606.03498. Reported as mean and deviation over ten
parts of the images, as the first code did. It looks at ImageNet's classes
alone, and at no reference: it says little of other pictures.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors
from imagen_jax.evals import feature_checks

Logits: TypeAlias = Float[np.ndarray, "_ _"]  # n k


class OverParts(NamedTuple):
  """Inception score of parts of a set: mean, and deviation among them."""

  mean: float
  deviation: float


def inception_score(logits: Logits) -> float:
  """The score of all images together; 1 at least, the classes at most."""
  feature_checks.check(logits, 1, "Inception score")
  x = np.float64(logits)
  x = x - x.max(axis=1, keepdims=True)
  log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
  p = np.exp(log_p)
  # 0 log 0 is 0: a class that no image has counts for nothing.
  marginal = np.log(np.maximum(p.mean(axis=0, keepdims=True), 1e-300))
  return float(np.exp((p * (log_p - marginal)).sum(axis=1).mean()))


def over_parts(logits: Logits, parts: int = 10, seed: int = 0) -> OverParts:
  """The score of `parts` parts of the images, which are shuffled first."""
  if not 1 <= parts <= len(logits):
    raise errors.BadInput(
      f"Inception score over {parts} parts of {len(logits)} images; take 1 to"
      f" {len(logits)} parts."
    )
  order = np.random.default_rng(seed).permutation(len(logits))
  values = [
    inception_score(logits[part]) for part in np.array_split(order, parts)
  ]
  return OverParts(float(np.mean(values)), float(np.std(values)))
