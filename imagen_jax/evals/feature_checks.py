"""What every measure asks of its features, with errors of one line."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors

Features: TypeAlias = Float[np.ndarray, "_ _"]  # n d


def check(features: Features, least: int, what: str) -> None:
  """Features are finite and at least `least`; `what` names the measure."""
  n, _ = features.shape
  if n < least:
    raise errors.BadInput(
      f"{what} needs at least {least} images in each set, and one has {n};"
      " give more."
    )
  bad = ~np.isfinite(features).all(axis=1)
  if bad.any():
    raise errors.NonFinite(
      f"{what}: features of {bad.sum()} of {n} images are not finite, first of"
      f" image {int(np.argmax(bad))}; look at the weights and that image."
    )


def check_pair(a: Features, b: Features, least: int, what: str) -> None:
  """Both sets as `check` asks, and of one width."""
  if a.shape[1] != b.shape[1]:
    raise errors.BadInput(
      f"{what}: features have {a.shape[1]} and {b.shape[1]} numbers; compute"
      " both by one network."
    )
  for features in (a, b):
    check(features, least, what)
