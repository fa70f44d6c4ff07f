"""Random numbers addressed by (seed, name, index), in numpy.

SplitMix64: the state of number i is seed + (i + 1) * golden, and its output a
mix of that state. So number i needs none of the numbers before it, a slice of a
stream can be drawn on any host, and a stream added later moves no other.
"""

import hashlib

import numpy as np
from jaxtyping import Float, Int

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniform(
  seed: int, name: str, index: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
  """Float64 in [0, 1), 53 bits of them, one for each index."""
  digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
  start = np.frombuffer(digest[:8], "<u8")
  z = start + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
  z = (z ^ (z >> np.uint64(30))) * _MIX_1
  z = (z ^ (z >> np.uint64(27))) * _MIX_2
  z = z ^ (z >> np.uint64(31))
  return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
  seed: int, name: str, index: Int[np.ndarray, "n"], bound: int
) -> Int[np.ndarray, "n"]:
  """Integers in [0, bound), one for each index."""
  return (uniform(seed, name, index) * bound).astype(np.int64)
