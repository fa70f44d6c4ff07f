"""Exponential moving average of parameters, with warm-up.

  ema <- d * ema + (1 - d) * params,  d = min(decay, (1 + n) / (10 + n))

after n updates. The paper names no decay; 0.9999 is what its relatives use, and
the warm-up lets a short run forget its first steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagen_jax.core.arrays import Params


def decay_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
  """The decay after `step` updates."""
  n = step.astype(jnp.float32)
  return jnp.minimum(decay, (1 + n) / (10 + n))


def update(
  ema_params: Params, params: Params, decay: Float[Array, ""]
) -> Params:
  """One update, in the parameters' own float32."""
  return jax.tree.map(
    lambda e, p: e + (1 - decay) * (p - e), ema_params, params
  )
