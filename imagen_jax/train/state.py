"""The state of training: a plain pytree.

The random key is not in it: every draw of step n comes from (seed, n).
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from imagen_jax.core.arrays import Params


@flax.struct.dataclass
class TrainState:
  """`step` counts the updates done; `ema_params` is what is sampled from.

  Leaves are arrays, or what stands for them: shapes, shardings, names.
  """

  step: PyTree  # int32, ()
  params: Params
  ema_params: Params
  opt_state: PyTree


def create(params: Params, optimizer: optax.GradientTransformation):
  """The state before the first step; EMA starts at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=jax.jit(optimizer.init)(params),
  )


def abstract(params: Params, optimizer: optax.GradientTransformation):
  """The state's shapes from parameter shapes; nothing is allocated."""
  return jax.eval_shape(lambda p: create(p, optimizer), params)
