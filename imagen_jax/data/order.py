"""The shuffled order of a set, by position, without a list of it.

Position p of the stream of a set of n examples is place p mod n of epoch
p div n, and each epoch is a permutation of its own:

  index = permutation_{seed, p div n}(p mod n)

so each epoch holds each example once, any position is found without those
before it, and no memory is needed at any n. The permutation is a Feistel
network over pairs (left, right), index = left + a * right, with a = b = about
sqrt(n): a round adds a hash of one half to the other, which can be undone
whatever the hash is. The a * b pairs are a few more than n; an index past the
end is sent through again until it lies inside, which keeps it a permutation.

Grain's `index_shuffle` does the same, one index a call; it is experimental, and
a run must find the same order after an upgrade of its libraries.
"""

import math

import numpy as np
from jaxtyping import Int

from imagen_jax.core import errors
from imagen_jax.data import draws

Indices = Int[np.ndarray, "n"]

# Four are enough to look random for large halves; small sets need more.
_ROUNDS = 8


def index_at(seed: int, position: Indices, size: int) -> Indices:
  """The examples at positions >= 0 of the endless stream of a set."""
  if size < 1:
    raise errors.BadInput(f"a set of {size} examples has no order.")
  epoch, place = np.divmod(position, size)
  key = draws.integers(seed, "epoch", epoch, 1 << 53)
  found = _permute(seed, key, place, size)
  while (outside := found >= size).any():
    found[outside] = _permute(seed, key[outside], found[outside], size)
  return found


def _permute(seed: int, key: Indices, index: Indices, size: int) -> Indices:
  """A permutation of [0, a * b), another for each key."""
  a = math.isqrt(size - 1) + 1
  b = -(-size // a)
  right, left = np.divmod(index, a)
  for number in range(0, _ROUNDS, 2):
    hashed = draws.integers(seed, f"order {number}", right ^ key, a)
    left = (left + hashed) % a
    hashed = draws.integers(seed, f"order {number + 1}", left ^ key, b)
    right = (right + hashed) % b
  return left + a * right
