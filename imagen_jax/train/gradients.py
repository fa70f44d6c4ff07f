"""Loss and gradients of a batch, at once or in micro-batches.

k micro-batches of b/k examples need the memory of one and give the gradients
of the whole: all noise, times and dropped texts of a batch are drawn first, as
`stage.loss` draws them, and a micro-batch takes its part. Dropout alone
differs.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Cond, Key, Params
from imagen_jax.diffusion import losses, time_sampling

# What `sharding.gather` is traced to.
_GATHER = ("sharding_constraint", "custom_vjp_call", "custom_vjp_call_jaxpr")


# (stage, parameters of the network, batch, key) -> the loss of each example
LossFn: TypeAlias = Callable[[stage_lib.Stage, Params, Cond, Key], losses.Loss]


class Gradients(NamedTuple):
  """Of the mean loss, and each example's loss times its weight."""

  grads: Params
  loss: losses.Loss


def of_batch(
  stage: stage_lib.Stage,
  params: Params,
  batch: Cond,
  key: Key,
  *,
  micro_batches: int = 1,
  bind: Callable[[Params], Params] = lambda params: params,
  gather_again: bool = False,
  loss_fn: LossFn = stage_lib.loss,
) -> Gradients:
  """The gradients of a batch of b examples, b a multiple of `micro_batches`.

  They are those of `params`, of which `bind` makes what the network takes. An
  example counts as much as its `batch["weight"]` [b], or 1. With `gather_again`
  gathered parameters are not kept for the way back, but gathered once more.
  A `loss_fn` of another kind than training's is for one micro-batch.
  """
  if micro_batches > 1 and loss_fn is not stage_lib.loss:
    raise errors.BadInput(
      f"train.micro_batches is {micro_batches}, but this loss is of whole"
      " batches alone; use --config.train.micro_batches=1."
    )
  keep = _forgetful if gather_again else lambda function: function
  if micro_batches > 1:
    return _accumulated(stage, params, batch, key, micro_batches, bind, keep)

  def mean_loss(params: Params) -> tuple[Array, losses.Loss]:
    loss = loss_fn(stage, bind(params), batch, key)
    loss = _weighed(loss, batch.get("weight"))
    return loss.per_example.mean(), loss

  grads, loss = jax.grad(keep(mean_loss), has_aux=True)(params)
  return Gradients(grads, loss)


def _accumulated(
  stage: stage_lib.Stage,
  params: Params,
  batch: Cond,
  key: Key,
  k: int,
  bind: Callable[[Params], Params],
  keep: Callable[[Callable], Callable],
) -> Gradients:
  b = batch["image"].shape[0]
  if b % k:
    raise errors.BadInput(
      f"batch_size {b} is not divisible by {k} micro_batches."
    )
  # The draws of `losses.diffusion_loss`.
  noise_key = rng.key_for(key, "diffusion")
  t = time_sampling.uniform(rng.key_for(noise_key, "time"), b)
  eps_key = rng.key_for(noise_key, "eps")
  drawn = {
    "x0": batch["image"].astype(jnp.float32),
    "eps": jax.random.normal(eps_key, batch["image"].shape),
    "logsnr": stage.schedule(t),
    "cond": stage_lib.training_cond(stage, batch, key),
    "weight": batch.get("weight"),
  }

  def mean_loss(params: Params, part: PyTree, i: Array):
    dropout = rng.key_for(key, "dropout", i)
    loss = losses.loss_at(
      stage_lib.denoise_fn(stage, bind(params), dropout_key=dropout),
      part["x0"],
      part["cond"],
      part["logsnr"],
      part["eps"],
      prediction=stage.prediction,
      weighting=stage.weighting,
    )
    loss = _weighed(loss, part["weight"])
    return loss.per_example.mean(), loss

  def add(total: Params, part_and_i: tuple[PyTree, Array]):
    grads, loss = jax.grad(keep(mean_loss), has_aux=True)(params, *part_and_i)
    return jax.tree.map(lambda a, g: a + g / k, total, grads), loss

  zero = jax.tree.map(jnp.zeros_like, params)
  parts = jax.tree.map(lambda x: _split(x, k), drawn)
  grads, loss = jax.lax.scan(add, zero, (parts, jnp.arange(k)))
  return Gradients(grads, jax.tree.map(_join, loss))


def _forgetful(function: Callable) -> Callable:
  """All is kept for the way back but what `sharding.gather` made."""

  # JAX calls it with a primitive and all of its parameters.
  keeps = lambda primitive, *_, **__: primitive.name not in _GATHER  # noqa: E731
  return jax.checkpoint(function, policy=keeps)


def _weighed(
  loss: losses.Loss, weight: Float[Array, "b"] | None
) -> losses.Loss:
  if weight is None:
    return loss
  return loss._replace(per_example=weight * loss.per_example)


def _split(x: Array, k: int) -> Array:
  """[b, ...] -> [k, b/k, ...]; part j has rows j, j + k, ...

  So each part has rows of every device that a sharded batch lies on.
  """
  return x.reshape(x.shape[0] // k, k, *x.shape[1:]).swapaxes(0, 1)


def _join(x: Array) -> Array:
  """The inverse of `_split`."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
