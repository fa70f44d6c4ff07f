"""Networks that use their text, or do not, and what is said of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.evals import prompt_swap
from imagen_jax.train import evaluator
from imagen_jax.train import state as state_lib
from tests import tiny_cascade


class Network(nn.Module):
  """x0_hat = bias + weight * mean of the text."""

  @nn.compact
  def __call__(self, z_t, logsnr, text_emb, text_mask, x_lr=None, *_, **__):
    bias = self.param("bias", nn.initializers.zeros, (3,))
    weight = self.param("weight", nn.initializers.zeros, ())
    text = weight * text_emb.mean(axis=(1, 2))
    return jnp.broadcast_to(bias, z_t.shape) + text[:, None, None, None]


STAGE = stage_lib.Stage(
  name="base",
  module=Network(),
  resolution=8,
  text_width=5,
  prediction="x0",
)


def images(b=3, side=8):
  draw = np.random.default_rng(0)
  text_emb = jnp.asarray(draw.normal(1, 1, (b, 4, 5)), jnp.float32)
  x0 = jnp.asarray(draw.uniform(-1, 1, (b, side, side, 3)), jnp.float32)
  return x0, {"text_emb": text_emb, "text_mask": jnp.ones((b, 4), bool)}


def evaluate(params, stage=STAGE, made=None, **options):
  x0, cond = made or images()
  swap = prompt_swap.PromptSwap(stage, x0, cond, 1, **options)
  assert isinstance(swap, evaluator.Evaluator)
  state = state_lib.create(params, optax.identity())
  return swap(state, 1, epath.Path("nowhere"))


def params(weight):
  return {"bias": jnp.full(3, 0.5), "weight": jnp.float32(weight)}


def test_a_network_without_text_does_not_change():
  assert set(evaluate(params(0.0)).values()) == {0.0}


def test_the_change_is_the_one_of_its_definition():
  row = evaluate(params(0.3), logsnrs=(-4.0, 2.0))
  text = np.asarray(images()[1]["text_emb"], np.float64).mean(axis=(1, 2))
  own, other, none = 0.5 + 0.3 * text, 0.5 + 0.3 * np.roll(text, 1), 0.5
  size = np.sqrt(np.mean(own**2))
  for name, x in (("other", other), ("empty", none)):
    change = np.sqrt(np.mean((x - own) ** 2)) / size
    for level in ("-4", "2"):
      np.testing.assert_allclose(
        row[f"prompt_swap/{name}_logsnr_{level}"], change, rtol=1e-5
      )
  assert len(row) == 4


def test_more_use_of_the_text_is_a_larger_change():
  small, large = evaluate(params(0.1)), evaluate(params(0.5))
  assert all(small[name] < large[name] for name in small)


def test_it_is_the_same_whenever_it_is_asked_and_moves_with_the_seed():
  stage = build.stage(tiny_cascade.stage_configs(5)[0])
  weights = jax.tree.map(jnp.asarray, tiny_cascade.random_params(stage))
  made = images(2, 16)
  first, again = (evaluate(weights, stage, made) for _ in range(2))
  other = evaluate(weights, stage, made, seed=1)
  assert first == again and first != other
  assert all(np.isfinite(x) and x > 0 for x in first.values())


def test_a_stage_of_super_resolution_is_asked_as_well():
  stage = build.stage(tiny_cascade.stage_configs(5)[1])
  weights = jax.tree.map(jnp.asarray, tiny_cascade.random_params(stage))
  x0, cond = images(2, 32)
  made = x0, cond | {"x_lr": jnp.zeros((2, 16, 16, 3))}
  row = evaluate(weights, stage, made, aug_level=0.1)
  assert all(np.isfinite(x) and x > 0 for x in row.values())


def test_prompts_that_are_all_alike_are_refused():
  x0, cond = images()
  same = cond | {"text_emb": jnp.ones_like(cond["text_emb"])}
  with pytest.raises(errors.BadInput, match="3 prompts of one text"):
    prompt_swap.PromptSwap(STAGE, x0, same, 1)
  one = jax.tree.map(lambda x: x[:1], cond)
  with pytest.raises(errors.BadInput, match="1 prompts of one text"):
    prompt_swap.PromptSwap(STAGE, x0[:1], one, 1)
