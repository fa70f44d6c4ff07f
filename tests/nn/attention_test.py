"""Attention: masks, its own gradient, and equal backends."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.nn import attention
from tests import numpy_layers, random_params

B, Q, S, N, K = 3, 7, 5, 2, 4


def example(dtype=np.float32):
  """query, key, value, and a mask of 5, 2 and no real sources."""
  shapes = ((B, Q, N, K), (B, S, N, K), (B, S, N, K))
  arrays = [
    random_params.normal(*shape, seed=seed, dtype=dtype)
    for seed, shape in enumerate(shapes)
  ]
  return *arrays, random_params.mask(5, 2, 0, total=S)


def naive(query, key, value, mask):
  """The equation, for JAX to differentiate."""
  logits = jnp.einsum("bqnk,bsnk->bnqs", query, key) / K**0.5
  logits = jnp.where(mask[:, None, None], logits, -1e30)
  weights = jax.nn.softmax(logits, axis=-1) * mask[:, None, None]
  return jnp.einsum("bnqs,bsnk->bqnk", weights, value)


def gradients(attend, arrays, mask):
  def loss(arrays):
    return jnp.cos(attend(*arrays, mask)).sum()

  return jax.jit(jax.grad(loss))(arrays)


def test_results_lie_between_the_values():
  query, key, value, mask = example()
  out = attention.dot_product(query, key, value, mask)[:2]
  for row, count in enumerate((5, 2)):
    real = value[row, :count]
    assert (out[row] >= real.min(axis=0)[None] - 1e-6).all()
    assert (out[row] <= real.max(axis=0)[None] + 1e-6).all()


def test_the_order_of_sources_does_not_matter():
  query, key, value, mask = example()
  order = jnp.asarray([3, 0, 4, 1, 2])
  got = attention.dot_product(
    query, key[:, order], value[:, order], mask[:, order]
  )
  expected = attention.dot_product(query, key, value, mask)
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("backend", attention.BACKENDS)
def test_masked_sources_have_no_influence_and_no_gradient(backend):
  *arrays, mask = example()
  attend = functools.partial(attention.dot_product, backend=backend, chunk=3)
  query, key, value = arrays
  hidden = ~mask[:, :, None, None]
  changed = attend(
    query, jnp.where(hidden, 50, key), jnp.where(hidden, jnp.nan, value), mask
  )
  np.testing.assert_array_equal(changed, attend(*arrays, mask))
  d_query, d_key, d_value = gradients(attend, arrays, mask)
  hidden = np.broadcast_to(hidden, key.shape)
  assert (d_key[hidden] == 0).all() and (d_value[hidden] == 0).all()
  assert (d_key[1, :2] != 0).all() and (d_value[1, :2] != 0).all()
  assert (d_query[0] != 0).all() and (d_query[2] == 0).all()


def test_a_row_without_sources_is_zero():
  out = attention.dot_product(*example())
  assert (out[2] == 0).all() and (out[:2] != 0).all()


def test_examples_do_not_meet():
  query, key, value, mask = example()
  out = attention.dot_product(query, key, value, mask)
  other = attention.dot_product(
    query.at[1].add(1), key.at[1].multiply(3), value.at[1].set(0), mask
  )
  np.testing.assert_array_equal(out[0], other[0])
  assert np.abs(out[1] - other[1]).max() > 0.1


@pytest.mark.parametrize("backend", attention.BACKENDS)
def test_again_in_float64(backend, x64):
  arrays = example(np.float64)
  got = attention.dot_product(*arrays, backend=backend, chunk=3)
  expected = numpy_layers.attention(*(np.asarray(x)[:2] for x in arrays))
  np.testing.assert_allclose(got[:2], expected, rtol=0, atol=1e-12)
  query, key, value, _ = arrays
  everything = attention.dot_product(query, key, value, backend=backend)
  every = np.ones((B, S), bool)
  expected = numpy_layers.attention(
    *(np.asarray(x) for x in (query, key, value)), every
  )
  np.testing.assert_allclose(everything, expected, rtol=0, atol=1e-12)
  assert np.abs(everything - got).max() > 0.1


@pytest.mark.parametrize("backend", attention.BACKENDS)
def test_gradient_is_that_of_the_equation(backend, x64):
  *arrays, mask = example(np.float64)
  attend = functools.partial(attention.dot_product, backend=backend, chunk=3)
  got = gradients(attend, arrays, mask)
  expected = gradients(naive, arrays, mask)
  for one, other in zip(got, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    assert np.abs(other).max() > 0.1


def test_logits_of_any_size_are_finite():
  query, key, value, mask = example()
  attend = attention.dot_product
  out = attend(1e4 * query, 1e4 * key, value, mask)
  assert jnp.isfinite(out).all()
  grads = gradients(attend, [1e4 * query, 1e4 * key, value], mask)
  assert all(jnp.isfinite(g).all() for g in grads)


def test_bfloat16_is_normalised_in_float32():
  query = jnp.zeros((1, 1, 1, 4), jnp.bfloat16)
  ones = jnp.ones((1, 4096, 1, 4), jnp.bfloat16)
  out = attention.dot_product(query, ones, ones)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out, 1)  # a sum in bfloat16 would stop at 256


def test_jit_changes_nothing():
  arrays = example()
  got = jax.jit(attention.dot_product)(*arrays)
  np.testing.assert_allclose(
    got, attention.dot_product(*arrays), rtol=0, atol=1e-6
  )


def test_an_unknown_backend_is_named():
  with pytest.raises(errors.BadInput, match="'flash'; use one of .*chunked"):
    inspect.unwrap(attention.dot_product)(*example(), backend="flash")
