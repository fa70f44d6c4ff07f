"""Intervals of a measure by resampling images.

Each draw takes as many images as a set has, with replacement. The interval is
the measure of the real sets, and 1.96 deviations of the draws to both sides:
not the draws' own percentiles, as a draw holds images twice, which moves FID
upwards. What bias the measure itself has for few images stays in it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors

Rows: TypeAlias = Float[np.ndarray, "_ ..."]
SIGMAS = 1.96  # of a normal distribution, to either side of 95 %


class Interval(NamedTuple):
  """A measure with its 95 % interval."""

  value: float
  low: float
  high: float


def interval(
  measure: Callable[..., float],
  sets: Sequence[Rows],
  *,
  draws: int = 100,
  seed: int = 0,
) -> Interval:
  """`measure(*sets)` with its interval; rows of each set are drawn alone."""
  if draws < 2:
    raise errors.BadInput(
      f"an interval of {draws} draws; take at least 2, better 100."
    )
  draw = np.random.default_rng(seed)
  values = [
    measure(*(rows[draw.integers(len(rows), size=len(rows))] for rows in sets))
    for _ in range(draws)
  ]
  value = float(measure(*sets))
  half = SIGMAS * float(np.std(values, ddof=1))
  return Interval(value, value - half, value + half)
