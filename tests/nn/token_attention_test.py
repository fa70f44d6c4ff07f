"""Attention of text encoders against float64 numpy, and its masks."""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.nn import token_attention


def case():
  draw = np.random.default_rng(0)
  query = draw.normal(size=(2, 3, 4, 8))
  key, value = draw.normal(size=(2, 2, 5, 4, 8))
  bias = draw.normal(size=(4, 3, 5))
  allowed = draw.uniform(size=(2, 3, 5)) < 0.6
  allowed[:, :, 0] = True
  return query, key, value, allowed, bias


def by_hand(query, key, value, allowed, bias, scale):
  logits = np.einsum("bqnk,bsnk->bnqs", query, key) * scale + bias
  logits = np.where(allowed[:, None], logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bnqs,bsnk->bqnk", weights, value)


def test_it_is_the_formula():
  query, key, value, allowed, bias = case()
  arrays = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
  out = jax.jit(token_attention.attend, static_argnames="scale")(
    *arrays, allowed, scale=0.3, bias=jnp.asarray(bias, jnp.float32)
  )
  expected = by_hand(query, key, value, allowed, bias, 0.3)
  np.testing.assert_allclose(out, expected, atol=2e-6, rtol=0)
  for scale, shift in ((0.31, 0.0), (0.3, np.arange(5))):
    other = by_hand(query, key, value, allowed, bias + shift, scale)
    assert np.abs(out - other).max() > 1e-3


def test_a_source_that_is_not_allowed_has_no_gradient():
  query, key, value, _, _ = (jnp.asarray(x) for x in case())
  allowed = jnp.arange(5)[None, None] < jnp.array([[[3]], [[5]]])

  def total(value):
    return jnp.sum(token_attention.attend(query, key, value, allowed) ** 2)

  gradient = jax.grad(total)(value)
  assert not gradient[0, 3:].any()
  assert jnp.all(jnp.any(gradient[1] != 0, axis=(-1, -2)))


def test_no_source_at_all_is_finite():
  query, key, value, allowed, _ = (jnp.asarray(x) for x in case())
  out = token_attention.attend(query, key, value, jnp.zeros_like(allowed) > 0)
  assert jnp.all(jnp.isfinite(out))
