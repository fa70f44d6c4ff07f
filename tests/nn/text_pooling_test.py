"""Pooling: masks, order, equations, both kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
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


def test_class_token_pooling_again_in_float64(x64):
  module = text_pooling.ClassTokenPooling(6, 2, dtype=jnp.float64)
  text = random_params.normal(2, L, D, dtype=np.float64)
  mask = random_params.mask(5, 2, total=L)
  params = random_params.params(module, text, mask, dtype=np.float64)
  got = jax.jit(module.apply)({"params": params}, text, mask)
  for b, length in enumerate((5, 2)):
    x = numpy_layers.layer_norm(params["norm_0"], np.asarray(text)[b], 1e-5)
    token = x[:length].mean(axis=0) + np.asarray(params["bias"])
    tokens = np.concatenate([token[None], x[:length]])
    query, key, value = (
      numpy_layers.dense(params[name], rows).reshape(1, -1, 2, D // 2)
      for name, rows in (
        ("query", token[None]),
        ("key", tokens),
        ("value", tokens),
      )
    )
    seen = np.ones((1, length + 1), bool)
    out = numpy_layers.attention(query, key, value, seen).reshape(1, D)
    out = numpy_layers.dense(params["out"], out)
    expected = numpy_layers.layer_norm(params["norm_1"], out, 1e-5)
    np.testing.assert_allclose(got[b], expected[0], rtol=0, atol=1e-10)


def test_class_token_heads_must_divide_the_width():
  module = text_pooling.ClassTokenPooling(6, 3)
  text, mask = jnp.ones((1, L, D)), jnp.ones((1, L), bool)
  with pytest.raises(errors.BadInput, match="pooling_heads"):
    jax.eval_shape(module.init, jax.random.key(0), text, mask)
