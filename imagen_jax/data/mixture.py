"""Several sets in one stream, by weight.

Of the first p positions, n_s(p) come from set s. The sets are peeled off one
after the other: of the q positions that are left over for sets s, s + 1, ...,
set s takes

  n_s = floor(q * w_s / (w_s + w_{s+1} + ...)),

which grows by 0 or 1 a position, and the rest is left for those after it. So

- position p is of the first set whose count grows there, and the count before
  it is its place in the stream of that set (`order` shuffles that): both from
  p alone, in one short loop over the sets;
- counts are off w_s * p by less than the number of sets at every p. A draw for
  each position would be off by sqrt(p), and could not tell how often a set
  was drawn before without drawing again;
- each batch holds the sets in nearly the same shares, and so does each host's
  part of it, as the sets lie evenly.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from imagen_jax.core import errors

# Weights are whole numbers of this sum, so that counts are exact: positions up
# to 2^42, and shares down to one in a million.
_UNITS = 1 << 20

Indices = Int[np.ndarray, "n"]


class Place(NamedTuple):
  """Where positions of the mixture lie."""

  number: Indices  # which set
  position: Indices  # in the stream of that set


def units(weights: Sequence[float | int]) -> tuple[int, ...]:
  """Weights >= 0 as whole numbers whose sum is about 2^20."""
  total = math.fsum(weights)
  if not (math.isfinite(total) and total > 0 and min(weights) >= 0):
    raise errors.BadInput(
      f"weights {tuple(weights)} are not shares; give a number >= 0 for each"
      " set, one of them above 0."
    )
  found = tuple(round(weight / total * _UNITS) for weight in weights)
  for weight, unit in zip(weights, found, strict=True):
    if weight > 0 and unit == 0:
      raise errors.BadInput(
        f"weight {weight} is less than one in {2 * _UNITS} of {total}; give"
        " more, or 0 to leave the set out."
      )
  return found


def locate(shares: Sequence[int], position: Indices) -> Place:
  """The set and the place in its stream, of positions >= 0; see `units`."""
  number = np.full_like(position, -1)
  found = np.zeros_like(position)
  rest, left = position, sum(shares)
  for i, share in enumerate(shares):
    if share:
      before = rest * share // left
      here = (number < 0) & ((rest + 1) * share // left > before)
      number[here], found[here] = i, before[here]
      rest, left = rest - before, left - share
  return Place(number, found)
