"""The numbers of a step by noise level, and those of a window of steps.

On the device, for each bin of logsnr, a pair [sum, count] of the losses with

  EDGES[i] <= logsnr < EDGES[i + 1]

where the two end bins also take what lies beyond them. On the host, a window of
steps has the sum of sums over the sum of counts: the mean of its examples,
however few of them each step had. Nothing here waits for the device.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.diffusion import losses

EDGES = tuple(range(-20, 21, 4))  # of logsnr; the cosine schedule has no more
BINS = "loss_by_logsnr"  # of a step; a row has a name for each bin
PREFIX = "loss/logsnr_"

# Metrics of a step on the host: floats, integers that count, and the bins.
HostMetrics: TypeAlias = Mapping[str, np.ndarray | np.generic | float | int]


def bin_names() -> list[str]:
  """`loss/logsnr_-4_0` and its like, from noise to image."""
  return [f"{PREFIX}{low}_{high}" for low, high in itertools.pairwise(EDGES)]


def by_logsnr(loss: losses.Loss) -> dict[str, Float[Array, "bins 2"]]:
  """[sum, count] of the weighted losses in each bin, as one metric.

  By comparison, not by scatter, which on a GPU adds in any order; and in one
  array, as each costs the host the same to read.
  """
  values = loss.per_example[:, None]
  inner = jnp.asarray(EDGES[1:-1], loss.logsnr.dtype)
  index = (loss.logsnr[:, None] >= inner[None, :]).sum(axis=1)
  inside = index[:, None] == jnp.arange(len(EDGES) - 1)[None, :]
  total = jnp.where(inside, values, 0.0).sum(axis=0)
  count = inside.sum(axis=0).astype(values.dtype)
  return {BINS: jnp.stack([total, count], axis=1)}


def summarize(window: Sequence[HostMetrics]) -> dict[str, float]:
  """A row of a window: means of floats and bins, the newest of integers.

  A bin without an example is left out.
  """
  row = {}
  for name, newest in window[-1].items():
    values = np.asarray([metrics[name] for metrics in window])
    if name == BINS:
      totals = values.sum(axis=0, dtype=np.float64).tolist()
      named = zip(bin_names(), totals, strict=True)
      row |= {name: total / n for name, (total, n) in named if n > 0}
    elif np.issubdtype(values.dtype, np.integer):
      row[name] = int(newest)
    else:
      row[name] = float(values.mean(dtype=np.float64))
  return row
