"""Tallies of what raters chose: rates with 95 % intervals, and agreement.

An answer counts as a value in [0, 1]: for a preference 1 is a, 0 is b and 0.5
indifferent; for a caption 1, 0.5 and 0 (the paper's 100, 50, 0). A rate is the
mean. Answers to one prompt, and those of one rater, are not independent, so its
interval is the wider, to each side, of two:

  Wilson      (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
  resampling  prompts and raters both drawn with replacement (pigeonhole
              bootstrap, Owen 2007); the 2.5 and 97.5 percentiles of the means

The first never has width 0 where all agree; the second is wide where few
prompts or few raters decide.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap

_Z = 1.959963984540054  # of 95 %, two-sided


class Vote(NamedTuple):
  """One answer to one question."""

  rater: int
  item: int  # what was judged, as the number of a trial
  value: float  # in [0, 1]


def wilson(rate: float, n: int) -> tuple[float, float]:
  """The interval of a rate in [0, 1] of `n` independent answers."""
  centre = rate + _Z**2 / (2 * n)
  half = _Z * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n * n))
  scale = 1 + _Z**2 / n
  return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def rate(
  votes: Sequence[Vote], *, draws: int = 2000, seed: int = 0
) -> bootstrap.Interval:
  """The mean value with its 95 % interval; BadInput without votes."""
  if not votes:
    raise errors.BadInput("no answer was given, so there is no rate.")
  values = np.array([vote.value for vote in votes], np.float64)
  if values.min() < 0 or values.max() > 1:
    raise errors.BadInput(
      f"values are from {values.min()} to {values.max()}; they must be in"
      " [0, 1]."
    )
  value = float(values.mean())
  low, high = wilson(value, len(votes))
  means = _resampled(
    values,
    _numbers([vote.rater for vote in votes]),
    _numbers([vote.item for vote in votes]),
    draws,
    np.random.default_rng(seed),
  )
  if len(means):
    low = min(low, float(np.percentile(means, 2.5)))
    high = max(high, float(np.percentile(means, 97.5)))
  return bootstrap.Interval(value, low, high)


def _numbers(names: Sequence[int]) -> Int[np.ndarray, "n"]:
  """0, 1, ... for each name that occurs."""
  return np.unique(np.array(names), return_inverse=True)[1]


def _resampled(
  values: Float[np.ndarray, "n"],
  raters: Int[np.ndarray, "n"],
  items: Int[np.ndarray, "n"],
  draws: int,
  draw: np.random.Generator,
) -> Float[np.ndarray, "_"]:
  """Means of draws of raters and items; those that drew no answer left out."""
  n, m = raters.max() + 1, items.max() + 1
  means = []
  for _ in range(draws):
    of_rater = np.bincount(draw.integers(n, size=n), minlength=n)
    of_item = np.bincount(draw.integers(m, size=m), minlength=m)
    weights = of_rater[raters] * of_item[items]
    if total := weights.sum():
      means.append(weights @ values / total)
  return np.array(means, np.float64)


def shares(values: Sequence[str], names: Sequence[str]) -> dict[str, float]:
  """The share of each name, in [0, 1]."""
  return {name: list(values).count(name) / len(values) for name in names}


def krippendorff_alpha(votes: Sequence[Vote]) -> float | None:
  """Agreement of raters beyond chance: 1 is perfect, 0 what chance gives.

  1 - D_o / D_e with the squared difference of values (interval data): D_o is
  the mean over pairs of answers to one item, D_e over all pairs. Items with one
  answer count in neither. None where no item has two, or all values are equal.
  """
  items: dict[int, list[float]] = {}
  for vote in votes:
    items.setdefault(vote.item, []).append(vote.value)
  units = [
    np.array(some, np.float64) for some in items.values() if len(some) > 1
  ]
  if not units:
    return None
  together = np.concatenate(units)
  n = len(together)
  observed = sum(_pairs(unit) / (len(unit) - 1) for unit in units) / n
  expected = _pairs(together) / (n * (n - 1))
  return None if expected == 0 else float(1 - observed / expected)


def _pairs(values: Float[np.ndarray, "n"]) -> float:
  """The squared difference, summed over ordered pairs."""
  return float(2 * len(values) * (values**2).sum() - 2 * values.sum() ** 2)


def same_share(votes: Sequence[Vote]) -> float | None:
  """Of all pairs of answers to one item, the share that are the same."""
  items: dict[int, list[float]] = {}
  for vote in votes:
    items.setdefault(vote.item, []).append(vote.value)
  same = total = 0
  for some in items.values():
    total += len(some) * (len(some) - 1)
    same += sum(some.count(value) - 1 for value in some)
  return same / total if total else None
