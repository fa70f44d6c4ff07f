"""The state of training: a plain pytree.

The random key is not in it: every draw of step n comes from (seed, n).
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from imagen_jax.core.arrays import Params

WINDOW = 128  # updates that the spike guard looks back


@flax.struct.dataclass
class Guard:
  """What `guards` knows of the past: a ring of the last updates that counted.

  Leaves are arrays, or what stands for them, as in `TrainState`.
  """

  losses: PyTree  # float32, (WINDOW,)
  grad_norms: PyTree  # float32, (WINDOW,)
  seen: PyTree  # int32, (): updates that were applied
  skipped: PyTree  # int32, (): updates that were not, in all
  skipped_in_a_row: PyTree  # int32, (): up to now


@flax.struct.dataclass
class TrainState:
  """`step` counts the batches used; `ema_params` is what is sampled from.

  Leaves are arrays, or what stands for them: shapes, shardings, names.
  """

  step: PyTree  # int32, ()
  params: Params
  ema_params: Params
  opt_state: PyTree
  guard: Guard


def create(params: Params, optimizer: optax.GradientTransformation):
  """The state before the first step; EMA starts at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=jax.jit(optimizer.init)(params),
    guard=Guard(
      losses=jnp.zeros(WINDOW, jnp.float32),
      grad_norms=jnp.zeros(WINDOW, jnp.float32),
      seen=jnp.zeros((), jnp.int32),
      skipped=jnp.zeros((), jnp.int32),
      skipped_in_a_row=jnp.zeros((), jnp.int32),
    ),
  )


def abstract(params: Params, optimizer: optax.GradientTransformation):
  """The state's shapes from parameter shapes; nothing is allocated."""
  return jax.eval_shape(lambda p: create(p, optimizer), params)
