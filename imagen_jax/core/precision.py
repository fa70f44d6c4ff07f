"""Arithmetic in float32 or better: bfloat16 is promoted, float64 is kept.

logsnr, time, the sampler and the losses never go below float32 (of 1,001 even
steps in t, bfloat16 keeps 507). With x64 enabled the same code is exact to
1e-9, which is how the tests compare it with the paper's formulas.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def at_least_float32(
  *arrays: Float[Array, "..."],
) -> tuple[Float[Array, "..."], ...]:
  """All arrays in one dtype: float64 if any of them is, else float32."""
  wide = any(array.dtype == jnp.float64 for array in arrays)
  dtype = jnp.float64 if wide else jnp.float32
  return tuple(array.astype(dtype) for array in arrays)
