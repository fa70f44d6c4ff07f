"""How parameters start: variance scaling, and zeros for output layers.

Kernels are drawn uniformly with variance 1 / mean(fan_in, fan_out), as in the
diffusion networks of the authors. The last layer of every residual branch and
of the whole network starts at zero, so that a new network returns exactly 0 and
the first eps loss is 1.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from imagen_jax.core.arrays import Key

Initializer: TypeAlias = Callable[..., Array]  # (key, shape, dtype) -> array


@dataclasses.dataclass(frozen=True)
class FanAverageUniform:
  """U(-bound, bound) with variance 2 / (fan_in + fan_out)."""

  def bound(self, shape: tuple[int, ...]) -> float:
    """Largest value for a kernel [*window, in, out]."""
    window = math.prod(shape[:-2])
    return math.sqrt(6 / (window * (shape[-2] + shape[-1])))

  def __call__(
    self, key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
  ) -> Array:
    bound = self.bound(shape)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


default = FanAverageUniform()
zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
