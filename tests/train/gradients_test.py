"""Micro-batches have the gradients of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.train import gradients
from tests.train import tiny_run


def params_and_batch(stage, b=8):
  draw = np.random.default_rng(0)
  batch = {
    "image": draw.uniform(-1, 1, (b, 16, 16, 3)),
    "text_emb": draw.normal(size=(b, 4, 8)),
  }
  if stage.low_resolution:
    batch["x_lr"] = draw.uniform(-1, 1, (b, 8, 8, 3))
  else:
    batch["weight"] = draw.uniform(0.5, 2, b)
  batch = {name: jnp.asarray(x, jnp.float32) for name, x in batch.items()}
  batch["text_mask"] = jnp.asarray(draw.uniform(size=(b, 4)) > 0.3)
  return stage_lib.init(stage, jax.random.key(0)), batch


@pytest.mark.parametrize("stage", [tiny_run.STAGE, tiny_run.SR])
def test_micro_batches_have_the_gradients_of_the_whole(stage):
  params, batch = params_and_batch(stage)
  key = jax.random.key(3)
  of = jax.jit(
    gradients.of_batch, static_argnums=0, static_argnames="micro_batches"
  )
  whole = of(stage, params, batch, key)
  parts = of(stage, params, batch, key, micro_batches=4)
  np.testing.assert_allclose(
    parts.loss.per_example, whole.loss.per_example, rtol=2e-5
  )
  np.testing.assert_array_equal(parts.loss.logsnr, whole.loss.logsnr)
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(whole.grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale),
    parts.grads,
    whole.grads,
  )
  # A part alone is not the whole.
  half = of(stage, params, {n: x[:4] for n, x in batch.items()}, key)
  largest = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), half.grads, whole.grads
  )
  assert max(jax.tree.leaves(largest)) > 1e-3 * scale


def test_an_example_counts_as_its_weight():
  params, batch = params_and_batch(tiny_run.STAGE)
  del batch["weight"]
  key = jax.random.key(3)

  @jax.jit
  def of(weight):
    weighed = batch | {"weight": weight}
    return gradients.of_batch(tiny_run.STAGE, params, weighed, key)

  plain = jax.jit(
    lambda: gradients.of_batch(tiny_run.STAGE, params, batch, key)
  )()
  weight = jnp.arange(8.0)
  found = of(weight)
  np.testing.assert_allclose(
    found.loss.per_example, weight * plain.loss.per_example, rtol=1e-6
  )
  np.testing.assert_array_equal(found.loss.mse, plain.loss.mse)
  # Linear in the weights: one example at a time sums to the whole.
  alone = [of(jnp.zeros(8).at[i].set(1.0)).grads for i in range(8)]
  summed = jax.tree.map(lambda *grads: sum(grads), *alone)
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain.grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale),
    summed,
    plain.grads,
  )


def test_a_batch_that_cannot_be_cut_is_refused():
  params, batch = params_and_batch(tiny_run.STAGE)
  with pytest.raises(errors.BadInput, match="8 is not divisible by 3"):
    gradients.of_batch(
      tiny_run.STAGE, params, batch, jax.random.key(0), micro_batches=3
    )


def test_parts_take_rows_from_all_over_and_go_back_in_place():
  x = jnp.arange(12).reshape(6, 2)
  parts = gradients._split(x, 3)
  np.testing.assert_array_equal(parts[1], [[2, 3], [8, 9]])
  np.testing.assert_array_equal(gradients._join(parts), x)
