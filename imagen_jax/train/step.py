"""One training step: loss, gradients, update, EMA, nothing else.

A step whose loss or gradient is not finite leaves the state as it was, so that
nothing non-finite can reach a checkpoint; the loop then stops and says so.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng
from imagen_jax.core.arrays import Cond, Key, Params
from imagen_jax.train import ema
from imagen_jax.train.state import TrainState

Metrics: TypeAlias = dict[str, Float[Array, ""]]
TrainStep: TypeAlias = Callable[
  [TrainState, Cond, Key], tuple[TrainState, Metrics]
]


def make_train_step(
  stage: stage_lib.Stage,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float,
) -> TrainStep:
  """(state, batch, root key) -> (state, metrics): pure, to be jitted."""

  def mean_loss(params: Params, batch: Cond, key: Key) -> Float[Array, ""]:
    return stage_lib.loss(stage, params, batch, key).per_example.mean()

  def train_step(state: TrainState, batch: Cond, key: Key):
    step_key = rng.key_for(key, "train", state.step)
    loss, grads = jax.value_and_grad(mean_loss)(state.params, batch, step_key)
    grad_norm = optax.global_norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay_at(state.step, ema_decay)
    new = TrainState(
      step=state.step + 1,
      params=params,
      ema_params=ema.update(state.ema_params, params, decay),
      opt_state=opt_state,
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    return new, {"loss": loss, "grad_norm": grad_norm}

  return train_step
