"""BERT: a bidirectional text encoder, the small one of the paper's ablation.

Devlin et al. 2018, arXiv:1810.04805; Imagen Appendix D.1 compares it with T5.
With E the sum of word, position and segment embeddings:

  x_0     = LN(E)
  y_i     = LN(x_i + Attention(x_i))          post-norm: LN after the sum
  x_{i+1} = LN(y_i + W_out gelu(W_in y_i))    gelu with erf, not tanh

  ids [b l], mask [b l] -> token states [b l d]

A padded token is no source of attention, so it cannot change the others. Its
own state is computed all the same and means nothing: callers drop it.
LayerNorm and softmax are computed in float32 or better whatever `dtype` is.
Matrix products ask for full precision: a GPU would otherwise run float32 in
TF32, and the text embedding would depend on the machine.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from imagen_jax.core import errors
from imagen_jax.nn import token_attention

_PRECISION = token_attention.PRECISION


def _wide(dtype: DTypeLike) -> jnp.dtype:
  """The dtype of norms and softmax: at least float32."""
  return jnp.promote_types(dtype, jnp.float32)


class BertLayerNorm(nn.Module):
  """LN(x) = (x - mean) / sqrt(var + eps) * scale + bias, float32 or better."""

  epsilon: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    wide = _wide(self.dtype)
    # The fast variance E[x^2] - E[x]^2 cancels in float32.
    norm = nn.LayerNorm(
      self.epsilon, dtype=wide, use_fast_variance=False, name="norm"
    )
    return norm(x.astype(wide)).astype(self.dtype)


class BertEmbeddings(nn.Module):
  """LN(word + position + segment)."""

  vocab_size: int
  hidden_size: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, ids: Int[Array, "b l"], segments: Int[Array, "b l"]
  ) -> Float[Array, "b l {self.hidden_size}"]:
    d = self.hidden_size
    word = nn.Embed(self.vocab_size, d, dtype=self.dtype, name="word")(ids)
    position = nn.Embed(
      self.max_position_embeddings, d, dtype=self.dtype, name="position"
    )(jnp.arange(ids.shape[1]))
    segment = nn.Embed(
      self.type_vocab_size, d, dtype=self.dtype, name="segment"
    )(segments)
    norm = BertLayerNorm(self.layer_norm_eps, self.dtype, name="norm")
    return norm(word + segment + jnp.expand_dims(position, 0))


class BertSelfAttention(nn.Module):
  """softmax(q k^T / sqrt(k)) v over the real tokens, then a projection."""

  num_attention_heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l d"]:
    b, length, d = x.shape
    n = self.num_attention_heads
    heads = {}
    for name in ("query", "key", "value"):
      dense = nn.Dense(d, dtype=self.dtype, precision=_PRECISION, name=name)
      heads[name] = dense(x).reshape(b, length, n, d // n)
    y = token_attention.attend(
      heads["query"],
      heads["key"],
      heads["value"],
      mask[:, None, :],
      scale=(d // n) ** -0.5,
    )
    out = nn.Dense(d, dtype=self.dtype, precision=_PRECISION, name="out")
    return out(y.reshape(b, length, d))


class BertLayer(nn.Module):
  """Attention, then feed-forward, each followed by residual sum and norm."""

  num_attention_heads: int
  intermediate_size: int
  layer_norm_eps: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l d"]:
    eps, dtype = self.layer_norm_eps, self.dtype
    attention = BertSelfAttention(
      self.num_attention_heads, dtype, name="attention"
    )
    x = BertLayerNorm(eps, dtype, name="attention_norm")(x + attention(x, mask))
    y = nn.Dense(
      self.intermediate_size, dtype=dtype, precision=_PRECISION, name="ffn_in"
    )(x)
    y = jax.nn.gelu(y, approximate=False)
    y = nn.Dense(
      x.shape[-1], dtype=dtype, precision=_PRECISION, name="ffn_out"
    )(y)
    return BertLayerNorm(eps, dtype, name="ffn_norm")(x + y)


class BertEncoder(nn.Module):
  """ids, mask -> contextual token states; fields as in Hugging Face configs.

  `segments` (token_type_ids) are zero for single sentences, the default.
  """

  vocab_size: int
  hidden_size: int  # d
  num_hidden_layers: int
  num_attention_heads: int  # n; d must be divisible by it
  intermediate_size: int  # f
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  layer_norm_eps: float = 1e-12
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b l"],
    mask: Bool[Array, "b l"],
    segments: Int[Array, "b l"] | None = None,
  ) -> Float[Array, "b l {self.hidden_size}"]:
    self._check(ids.shape[1])
    if segments is None:
      segments = jnp.zeros_like(ids)
    x = BertEmbeddings(
      self.vocab_size,
      self.hidden_size,
      self.max_position_embeddings,
      self.type_vocab_size,
      self.layer_norm_eps,
      self.dtype,
      name="embeddings",
    )(ids, segments)
    for i in range(self.num_hidden_layers):
      x = BertLayer(
        self.num_attention_heads,
        self.intermediate_size,
        self.layer_norm_eps,
        self.dtype,
        name=f"layer_{i}",
      )(x, mask)
    return x

  def _check(self, length: int) -> None:
    """Refuses sizes that the network has no positions or heads for."""
    if length > self.max_position_embeddings:
      raise errors.BadInput(
        f"{length} tokens given, but this BERT has"
        f" {self.max_position_embeddings} positions; truncate to at most that."
      )
    if self.hidden_size % self.num_attention_heads:
      raise errors.BadInput(
        f"hidden_size {self.hidden_size} is not divisible by"
        f" num_attention_heads {self.num_attention_heads}; change one of them."
      )
