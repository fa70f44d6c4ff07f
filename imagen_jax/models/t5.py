"""The T5 encoder: the paper's text encoder (Section 2.1, T5-XXL v1.1).

Raffel et al. 2020, arXiv:1910.10683; v1.1 has a gated feed-forward (Shazeer
2020, arXiv:2002.05202), v1.0 a plain one. Per layer, with N the RMS norm:

  y_i     = x_i + W_o softmax(q k^T + B) v      q, k, v = W N(x_i); no 1/sqrt(k)
  x_{i+1} = y_i + W_o (gelu(W_0 N(y_i)) * W_1 N(y_i))      v1.1, flan: tanh gelu
  x_{i+1} = y_i + W_o relu(W N(y_i))                       v1.0
  N(x)    = scale * x / sqrt(mean(x^2) + eps)              no mean, no bias

  ids [b l], mask [b l] -> token states N(x_L) [b l d]

B[n, q, s] = table[bucket(s - q), n] is the only sense of position. One table
serves all layers, or each has its own (`per_layer_bias`: umt5, scalable_t5).
No layer has a bias vector. A padded token is no source of attention; its own
state means nothing. Norms and softmax are float32 or better whatever `dtype`
is, and matrix products ask for full precision, as in models/bert.py.

The layers are one `nn.scan`: parameters are stacked [layers, ...], and what is
compiled does not grow with depth.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from imagen_jax.core import arrays, errors
from imagen_jax.nn import initializers, int8, token_attention

FeedForward: TypeAlias = Literal["gated-gelu", "relu"]


def buckets(
  length: int, *, num_buckets: int = 32, max_distance: int = 128
) -> Int[np.ndarray, "q s"]:
  """Bucket of each (query, source): near ones exact, far ones by logarithm.

  With n = |s - q|, a half for s > q and a half for s <= q, each of m buckets:
  n below m / 2, then m / 2 (1 + log(n / (m / 2)) / log(max_distance / (m / 2)))
  rounded down, at most m - 1. In float32 on the host, as T5 was trained: the
  edges of the buckets do not move with x64 or with the device.
  """
  position = np.arange(length)
  relative = position[None, :] - position[:, None]
  half = num_buckets // 2
  exact = half // 2
  n = np.abs(relative)
  ratio = np.log(np.maximum(n, exact).astype(np.float32) / np.float32(exact))
  ratio = ratio / np.float32(math.log(max_distance / exact))
  far = exact + (ratio * np.float32(half - exact)).astype(np.int32)
  bucket = np.where(n < exact, n, np.minimum(far, half - 1))
  return (bucket + half * (relative > 0)).astype(np.int32)


class RMSNorm(nn.Module):
  """scale * x / sqrt(mean(x^2) + eps), float32 or better."""

  epsilon: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    scale = self.param("scale", initializers.ones, x.shape[-1:])
    wide = x.astype(jnp.promote_types(self.dtype, jnp.float32))
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    y = wide * jax.lax.rsqrt(mean + self.epsilon) * scale[None, None]
    return y.astype(self.dtype)


class RelativeBias(nn.Module):
  """B[n, q, s]: a learned number for each head and bucket of distance."""

  num_heads: int
  num_buckets: int
  max_distance: int

  @nn.compact
  def __call__(self, length: int) -> Float[Array, "n q s"]:
    shape = (self.num_buckets, self.num_heads)
    table = self.param("table", nn.initializers.normal(1.0), shape)
    index = buckets(
      length, num_buckets=self.num_buckets, max_distance=self.max_distance
    )
    return jnp.take(table.T, index, axis=1)


class Attention(nn.Module):
  """W_o softmax(q k^T + B) v over the real tokens."""

  num_heads: int  # n
  d_kv: int  # k
  weights: int8.Weights
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l d"],
    bias: Float[Array, "n l l"],
    mask: Bool[Array, "b l"],
  ) -> Float[Array, "b l d"]:
    b, length, d = x.shape
    n, k = self.num_heads, self.d_kv
    heads = {}
    for name in ("query", "key", "value"):
      dense = int8.Dense(n * k, self.weights, self.dtype, name=name)
      heads[name] = dense(x).reshape(b, length, n, k)
    y = token_attention.attend(
      heads["query"],
      heads["key"],
      heads["value"],
      mask[:, None, :],
      bias=bias,
    )
    out = int8.Dense(d, self.weights, self.dtype, name="out")
    return out(y.reshape(b, length, n * k))


class FeedForwardLayer(nn.Module):
  """Gated gelu (v1.1) or relu (v1.0), then back to d."""

  d_ff: int
  kind: FeedForward
  weights: int8.Weights
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    def dense(features: int, name: str) -> int8.Dense:
      return int8.Dense(features, self.weights, self.dtype, name=name)

    if self.kind == "relu":
      y = nn.relu(dense(self.d_ff, "wi")(x))
    else:
      gate = nn.gelu(dense(self.d_ff, "wi_0")(x), approximate=True)
      y = gate * dense(self.d_ff, "wi_1")(x)
    return dense(x.shape[-1], "wo")(y)


class T5Layer(nn.Module):
  """Attention, then feed-forward, each on a norm and beside an identity."""

  d_kv: int
  d_ff: int
  num_heads: int
  epsilon: float
  feed_forward: FeedForward
  weights: int8.Weights
  dtype: DTypeLike
  relative_bias: RelativeBias | None  # its own, where layers do not share one

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l d"],
    bias: Float[Array, "n l l"] | None,
    mask: Bool[Array, "b l"],
  ) -> tuple[Float[Array, "b l d"], None]:
    if self.relative_bias is not None:
      bias = self.relative_bias(x.shape[1])
    attention = Attention(
      self.num_heads, self.d_kv, self.weights, self.dtype, name="attention"
    )
    norm = RMSNorm(self.epsilon, self.dtype, name="attention_norm")
    x = x + attention(norm(x), bias, mask)
    mlp = FeedForwardLayer(
      self.d_ff, self.feed_forward, self.weights, self.dtype, name="mlp"
    )
    norm = RMSNorm(self.epsilon, self.dtype, name="mlp_norm")
    return x + mlp(norm(x)), None  # a scan's carry, and nothing beside it


class T5Encoder(nn.Module):
  """ids, mask -> contextual token states; fields as in Hugging Face configs."""

  vocab_size: int
  d_model: int  # d
  d_kv: int  # k, free of d: d_model / num_heads it need not be
  d_ff: int  # f
  num_layers: int
  num_heads: int  # n
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  layer_norm_epsilon: float = 1e-6
  feed_forward: FeedForward = "gated-gelu"
  per_layer_bias: bool = False
  weights: int8.Weights = "float"
  dtype: DTypeLike = jnp.float32
  # What a layer's parameters pass on their way to it, {"params": ...}: where
  # devices hold parts of them, one layer at a time is made whole.
  use: Callable[[arrays.Params], arrays.Params] | None = None

  @nn.compact
  def __call__(
    self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l {self.d_model}"]:
    self._check(ids.shape[1])
    x = int8.Embed(
      self.vocab_size,
      self.d_model,
      self.weights,
      self.dtype,
      name="token_embedder",
    )(ids)
    table = functools.partial(
      RelativeBias,
      self.num_heads,
      self.relative_attention_num_buckets,
      self.relative_attention_max_distance,
    )
    bias = None
    if not self.per_layer_bias:
      bias = table(name="relative_bias")(ids.shape[1])
    layer = T5Layer
    if self.use is not None:
      layer = nn.map_variables(T5Layer, "params", self.use)
    layers = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.num_layers,
    )(
      self.d_kv,
      self.d_ff,
      self.num_heads,
      self.layer_norm_epsilon,
      self.feed_forward,
      self.weights,
      self.dtype,
      table(parent=None) if self.per_layer_bias else None,
      name="layers",
    )
    x, _ = layers(x, bias, mask)
    norm = RMSNorm(self.layer_norm_epsilon, self.dtype, name="final_norm")
    return norm(x)

  def _check(self, length: int) -> None:
    """Refuses what this network is not."""
    known = {
      "feed_forward": ("gated-gelu", "relu"),
      "weights": ("float", "int8"),
    }
    for field, choices in known.items():
      if getattr(self, field) not in choices:
        raise errors.BadInput(
          f"{field} is {getattr(self, field)!r}; use one of {choices}."
        )
    if length < 1:
      raise errors.BadInput("0 tokens given, but T5 reads at least 1.")
