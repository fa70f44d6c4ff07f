"""Pooling: masks, order, equations, both kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.nn import text_pooling
from tests import numpy_layers, random_params

KINDS = ("attention", "mean")
D, L = 8, 5


def example(kind, dtype=np.float32, width=D):
  module = text_pooling.TextPooling(feature_pooling_type=kind, dtype=dtype)
  text = random_params.normal(3, L, width, dtype=dtype)
  mask = random_params.mask(5, 2, 0, total=L)
  params = random_params.params(module, text, mask, dtype=dtype)
  apply = jax.jit(lambda text: module.apply({"params": params}, text, mask))
  return apply, params, text, mask


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_influence_and_no_gradient(kind):
  apply, _, text, mask = example(kind)
  out = apply(text)
  changed = apply(jnp.where(mask[:, :, None], text, 33))
  np.testing.assert_array_equal(out, changed)
  grad = jax.jit(jax.grad(lambda text: jnp.cos(apply(text)).sum()))(text)
  assert (grad[~mask] == 0).all() and (
    jnp.abs(grad[mask]).max(axis=-1) > 0
  ).all()
  assert jnp.isfinite(out).all() and jnp.isfinite(grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_does_not_count_and_examples_do_not_meet(kind):
  apply, _, text, _ = example(kind)
  out = apply(text)
  turned = apply(text.at[0].set(text[0, ::-1]))
  np.testing.assert_allclose(turned, out, atol=1e-5)
  other = apply(text.at[1].multiply(-1))
  np.testing.assert_array_equal(other[0], out[0])
  assert np.abs(other[1] - out[1]).max() > 0.01


def test_only_attention_looks_beyond_the_mean():
  moved = {}
  for kind in KINDS:
    apply, _, text, _ = example(kind)
    spread = text.at[0, 0].add(2).at[0, 1].add(-2)
    moved[kind] = np.abs(apply(spread) - apply(text)).max()
  assert moved["mean"] < 1e-5 < 0.01 < moved["attention"]


@pytest.mark.parametrize("width", [8, 128])  # one head of 8, two of 64
def test_attention_pooling_again_in_float64(width, x64):
  apply, params, text, mask = example("attention", np.float64, width)
  heads = max(width // 64, 1)
  x, mask = np.asarray(text)[:2], np.asarray(mask)[:2]
  mean = np.stack([x[0].mean(axis=0), x[1, :2].mean(axis=0)])
  query, key, value = (
    numpy_layers.dense(params[name], tokens).reshape(
      2, -1, heads, width // heads
    )
    for name, tokens in (("query", mean), ("key", x), ("value", x))
  )
  out = numpy_layers.attention(query, key, value, mask).reshape(2, width)
  out = numpy_layers.dense(params["out"], out)
  expected = numpy_layers.layer_norm(params["norm"], out)
  np.testing.assert_allclose(apply(text)[:2], expected, rtol=0, atol=1e-10)


def test_mean_pooling_again_in_float64(x64):
  apply, params, text, _ = example("mean", np.float64)
  x = np.asarray(text)
  means = np.stack([x[0].mean(axis=0), x[1, :2].mean(axis=0), np.zeros(D)])
  expected = numpy_layers.layer_norm(params["norm"], means)
  np.testing.assert_allclose(apply(text), expected, rtol=0, atol=1e-12)
  assert set(params) == {"norm"}


def test_a_mean_of_bfloat16_is_float32():
  text = jnp.ones((1, 1024, 2), jnp.bfloat16)  # a sum in bfloat16 stops at 256
  mean = text_pooling.masked_mean(text, jnp.ones((1, 1024), bool))
  assert mean.dtype == jnp.float32
  np.testing.assert_array_equal(mean, 1)
