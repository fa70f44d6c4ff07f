"""One training step: loss, gradients, update, EMA, guards, nothing else.

The metrics of a step are floats, which are averaged over steps; integers, which
count, so that the newest holds; and the bins of `metrics`.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from imagen_jax.cascade import distilling as distilling_lib
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng
from imagen_jax.core.arrays import Cond, Key, Params
from imagen_jax.train import ema, gradients, guards
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train.state import TrainState

Metric: TypeAlias = Float[Array, ""] | Int[Array, ""] | Float[Array, "bins 2"]
Metrics: TypeAlias = dict[str, Metric]
TrainStep: TypeAlias = Callable[
  [TrainState, Cond, Key], tuple[TrainState, Metrics]
]
# (what is trained, what stays as it is) -> the parameters of the network
Bind: TypeAlias = Callable[[Params, Params | None], Params]


def make_train_step(
  stage: stage_lib.Stage,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float,
  micro_batches: int = 1,
  spike_deviations: float = 0.0,
  freeze: Callable[[Params], Params] = lambda grads: grads,
  bind: Bind = lambda params, _: params,
  learning_rate: optax.Schedule | None = None,
  gather_again: bool = False,
  distilling: distilling_lib.Distilling | None = None,
) -> TrainStep:
  """(state, batch, root key) -> (state, metrics): pure, to be jitted.

  `spike_deviations` is that of `guards`, 0 for no guard. `freeze` puts zeros
  for the gradients of frozen parameters, which then are not computed. Where
  the state holds a part alone, adapters, the step has a last argument `base`,
  and `bind` joins the two. With `distilling`, `base` is the teacher, whole.
  `learning_rate` is that of `optimizer`, to be told; `gather_again` is for
  `gradients`.
  """

  def train_step(
    state: TrainState, batch: Cond, key: Key, base: Params | None = None
  ):
    key = rng.key_for(key, "train", state.step)
    loss_fn, added = stage_lib.loss, base
    if distilling is not None:
      loss_fn = functools.partial(distilling, base=bind(base, None))
      added = None
    grads, losses = gradients.of_batch(
      stage,
      state.params,
      batch,
      key,
      micro_batches=micro_batches,
      bind=lambda params: bind(params, added),
      gather_again=gather_again,
      loss_fn=loss_fn,
    )
    loss, grads = losses.per_example.mean(), freeze(grads)
    norm = optax.global_norm(grads)
    spike = guards.is_spike(
      state.guard, loss, norm, deviations=spike_deviations
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay_at(state.step, ema_decay)
    new = TrainState(
      step=state.step + 1,
      params=params,
      ema_params=ema.update(state.ema_params, params, decay),
      opt_state=opt_state,
      guard=guards.after(state.guard, loss, norm, spike),
    )
    metrics = {
      "loss": loss,
      "grad_norm": norm,
      "param_norm": optax.global_norm(params),
      "update_norm": optax.global_norm(updates),
      "ema_decay": decay,
      "updates": new.guard.seen,
      "skipped": new.guard.skipped,
      "skipped_in_a_row": new.guard.skipped_in_a_row,
    } | metrics_lib.by_logsnr(losses)
    if learning_rate is not None:  # skipped updates are not in its count
      rate = learning_rate(state.guard.seen)
      metrics["learning_rate"] = jnp.asarray(rate, jnp.float32)
    finite = guards.all_finite(metrics)
    return guards.choose(new, state, finite=finite, spike=spike), metrics

  return train_step
