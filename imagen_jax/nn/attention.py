"""Masked dot-product attention, softmax in float32, weights never stored.

out[b, q, n] = sum_s p[b, n, q, s] value[b, s, n]
p = softmax_s(logits),  logits = query[b, q, n] . key[b, s, n] / sqrt(k)

A masked source has weight exactly 0 and gradient exactly 0. Where all sources
of an example are masked the result is 0, not NaN: masked values are set to 0,
so whatever weights the softmax gives them add nothing.

For the gradient only the [b n q] log of the softmax's denominator is kept, and
the weights are computed anew (at 32x32 they are the largest arrays by far).
With g the gradient of out and delta = sum_k g out,

  d value = p^T g,   d logits = p (g value^T - delta).

Backends, one signature, equal results:
- exact: the [b n q s] weights of one layer at once; the fastest.
- chunked: `chunk` queries at a time, so that memory is [b n chunk s]. Each
  chunk sees all sources, so this softmax is exact too.
"""

import math
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imagen_jax.core import errors

Backend = Literal["exact", "chunked"]
BACKENDS = ("exact", "chunked")
# Below any logit, and small enough that no difference of two overflows.
_MASKED = -1e30

Query: TypeAlias = Float[Array, "b q n k"]
Source: TypeAlias = Float[Array, "b s n k"]
Mask: TypeAlias = Bool[Array, "b s"] | None


def dot_product(
  query: Query,
  key: Source,
  value: Source,
  mask: Mask = None,
  *,
  backend: Backend = "exact",
  chunk: int = 512,
) -> Query:
  """Attention of each query over the sources where `mask` is true."""
  if backend not in BACKENDS:
    raise errors.BadInput(
      f"unknown attention backend {backend!r}; use one of {BACKENDS}."
    )
  query = query * (1 / math.sqrt(query.shape[-1]))
  if mask is not None:
    value = jnp.where(mask[:, :, None, None], value, 0)
  if backend == "exact" or query.shape[1] <= chunk:
    return _attend(query, key, value, mask)
  return _chunked(query, key, value, mask, chunk)


def _chunked(
  query: Query, key: Source, value: Source, mask: Mask, chunk: int
) -> Query:
  """`_attend` for `chunk` queries at a time, padded to a whole number."""
  b, q, n, k = query.shape
  count = -(-q // chunk)
  padded = jnp.pad(query, ((0, 0), (0, count * chunk - q), (0, 0), (0, 0)))
  chunks = jnp.moveaxis(padded.reshape(b, count, chunk, n, k), 1, 0)
  attended = jax.lax.map(lambda c: _attend(c, key, value, mask), chunks)
  return jnp.moveaxis(attended, 0, 1).reshape(b, count * chunk, n, k)[:, :q]


def _logits(query: Query, key: Source, mask: Mask) -> Float[Array, "b n q s"]:
  wide = jnp.promote_types(query.dtype, jnp.float32)
  logits = jnp.einsum(
    "bqnk,bsnk->bnqs", query, key, preferred_element_type=wide
  )
  if mask is None:
    return logits
  return jnp.where(mask[:, None, None, :], logits, _MASKED)


def _forward(
  query: Query, key: Source, value: Source, mask: Mask
) -> tuple[Query, tuple]:
  """The result, and what the gradient needs."""
  logits = _logits(query, key, mask)
  top = logits.max(axis=-1, keepdims=True)
  weights = jnp.exp(logits - top)
  total = weights.sum(axis=-1, keepdims=True)
  out = jnp.einsum(
    "bnqs,bsnk->bqnk", (weights / total).astype(value.dtype), value
  )
  return out, (query, key, value, mask, out, top + jnp.log(total))


@jax.custom_vjp
def _attend(query: Query, key: Source, value: Source, mask: Mask) -> Query:
  """Softmax attention of scaled queries over values that are masked already."""
  return _forward(query, key, value, mask)[0]


def _backward(
  kept: tuple, gradient: Query
) -> tuple[Query, Source, Source, None]:
  query, key, value, mask, out, log_total = kept
  # Without the barrier the compiler would find the logits of the forward pass
  # again, and keep them (XLA's CPU backend ignores it, and keeps them); with
  # `gradient` in it, it cannot start early.
  query, key, log_total, gradient = jax.lax.optimization_barrier(
    (query, key, log_total, gradient)
  )
  wide = log_total.dtype
  weights = jnp.exp(_logits(query, key, mask) - log_total)
  d_value = jnp.einsum("bnqs,bqnk->bsnk", weights.astype(value.dtype), gradient)
  d_weights = jnp.einsum(
    "bqnk,bsnk->bnqs", gradient, value, preferred_element_type=wide
  )
  delta = jnp.einsum(
    "bqnk,bqnk->bnq", gradient, out, preferred_element_type=wide
  )
  d_logits = (weights * (d_weights - delta[..., None])).astype(query.dtype)
  d_query = jnp.einsum("bnqs,bsnk->bqnk", d_logits, key)
  d_key = jnp.einsum("bnqs,bqnk->bsnk", d_logits, query)
  return d_query, d_key, d_value, None


_attend.defvjp(_forward, _backward)
