"""CLIP's two towers: the paper's third text encoder, and the judge of images.

Radford et al. 2021, arXiv:2103.00020; Imagen Appendix D.1 compares ViT-L/14
with T5 and takes the penultimate states. With E word and position embeddings:

  x_0     = E
  y_i     = x_i + Attention(LN(x_i))        pre-norm: LN before the branch
  x_{i+1} = y_i + W_out act(W_in LN(y_i))   act(x) = x sigmoid(1.702 x)
  final = LN(x_N),  penultimate = x_{N-1}, as it enters the last layer

  ids [b l], mask [b l] -> token states [b l d]

A token sees itself and what stands before it. Padding stands behind the end
token, so causality alone hides it: with padding on the right the mask changes
no real token's state, and transformers' states, computed without one, are
equal on real tokens. The mask is applied all the same: padding elsewhere is
no source either, and the states of padding mean nothing.
The image tower is the same transformer without a mask, on patches:

  x_0 = LN([class, patches of p x p pixels, projected] + positions)
  pixels [b h w 3] -> states [b l d], embedding W LN(x_N[class]) [b e]

LayerNorm and softmax are computed in float32 or better whatever `dtype` is;
matrix products ask for full precision, as in BERT.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from imagen_jax.core import errors
from imagen_jax.nn import normalization, token_attention

_PRECISION = token_attention.PRECISION

States = Float[Array, "b l d"]
# [b q s], true where a query may read a source; None where all may.
Allowed = Bool[Array, "b l l"] | None


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """x sigmoid(1.702 x), an approximation of gelu."""
  return x * jax.nn.sigmoid(1.702 * x)


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable] = {"gelu": _gelu, "quick_gelu": quick_gelu}


class ClipAttention(nn.Module):
  """softmax(q k^T / sqrt(k)) v over the allowed sources, then a projection."""

  num_attention_heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: States, allowed: Allowed) -> States:
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
      allowed,
      scale=(d // n) ** -0.5,
    )
    out = nn.Dense(d, dtype=self.dtype, precision=_PRECISION, name="out")
    return out(y.reshape(b, length, d))


class ClipLayer(nn.Module):
  """Attention, then feed-forward: each a residual branch behind a norm."""

  num_attention_heads: int
  intermediate_size: int
  hidden_act: str
  layer_norm_eps: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: States, allowed: Allowed) -> States:
    eps, dtype = self.layer_norm_eps, self.dtype
    y = normalization.LayerNorm(eps, dtype, name="attention_norm")(x)
    x = x + ClipAttention(self.num_attention_heads, dtype, name="attention")(
      y, allowed
    )
    y = normalization.LayerNorm(eps, dtype, name="ffn_norm")(x)
    y = nn.Dense(
      self.intermediate_size, dtype=dtype, precision=_PRECISION, name="ffn_in"
    )(y)
    y = ACTIVATIONS[self.hidden_act](y)
    y = nn.Dense(
      x.shape[-1], dtype=dtype, precision=_PRECISION, name="ffn_out"
    )(y)
    return x + y


class ClipText(nn.Module):
  """ids, mask -> contextual token states; fields as in Hugging Face configs."""

  vocab_size: int
  hidden_size: int  # d
  num_hidden_layers: int  # N
  num_attention_heads: int  # n; d must be divisible by it
  intermediate_size: int  # f
  max_position_embeddings: int = 77
  hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
  layer_norm_eps: float = 1e-5
  output: Literal["final", "penultimate"] = "final"
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l {self.hidden_size}"]:
    length = ids.shape[1]
    self._check(length)
    d, dtype = self.hidden_size, self.dtype
    words = nn.Embed(self.vocab_size, d, dtype=dtype, name="word")(ids)
    positions = nn.Embed(
      self.max_position_embeddings, d, dtype=dtype, name="position"
    )(jnp.arange(length))
    x = before = words + positions[None]
    causal = jnp.tril(jnp.ones((length, length), jnp.bool_))
    allowed = causal[None] & mask[:, None, :]
    for i in range(self.num_hidden_layers):
      before = x
      x = ClipLayer(
        self.num_attention_heads,
        self.intermediate_size,
        self.hidden_act,
        self.layer_norm_eps,
        dtype,
        name=f"layer_{i}",
      )(x, allowed)
    x = normalization.LayerNorm(self.layer_norm_eps, dtype, name="norm")(x)
    # Both outputs have the parameters of both, so that a checkpoint is used up;
    # the compiler drops the layer that is not read.
    return {"final": x, "penultimate": before}[self.output]

  def _check(self, length: int) -> None:
    """Refuses sizes that the network has no positions or heads for."""
    if length > self.max_position_embeddings:
      raise errors.BadInput(
        f"{length} tokens given, but this CLIP has"
        f" {self.max_position_embeddings} positions; truncate to at most that."
      )
    if self.hidden_size % self.num_attention_heads:
      raise errors.BadInput(
        f"hidden_size {self.hidden_size} is not divisible by"
        f" num_attention_heads {self.num_attention_heads}; change one of them."
      )


class Seen(NamedTuple):
  """What the image tower makes of images; the embedding has any length."""

  states: States
  embedding: Float[Array, "b e"]


class ClipVision(nn.Module):
  """Normalised pixels -> states and embedding; fields as in HF configs."""

  image_size: int  # pixels a side
  patch_size: int
  hidden_size: int  # d
  num_hidden_layers: int  # N
  num_attention_heads: int  # n; d must be divisible by it
  intermediate_size: int  # f
  projection_dim: int  # e
  hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
  layer_norm_eps: float = 1e-5
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> Seen:
    b, h, w, _ = x.shape
    size, patch, d = self.image_size, self.patch_size, self.hidden_size
    if (h, w) != (size, size) or size % patch:
      raise errors.BadInput(
        f"pixels are {h}x{w}; this CLIP reads {size}x{size}, in whole patches"
        f" of {patch}."
      )
    x = nn.Conv(
      d,
      (patch, patch),
      (patch, patch),
      padding="VALID",
      use_bias=False,
      dtype=self.dtype,
      precision=_PRECISION,
      name="patch",
    )(x)
    first = self.param("class", nn.initializers.normal(0.02), (d,))
    first = jnp.broadcast_to(first.astype(x.dtype), (b, 1, d))
    x = jnp.concatenate([first, x.reshape(b, -1, d)], axis=1)
    length = x.shape[1]
    x += nn.Embed(length, d, dtype=self.dtype, name="position")(
      jnp.arange(length)
    )[None]
    x = self._norm(x, "pre_norm")
    for i in range(self.num_hidden_layers):
      x = ClipLayer(
        self.num_attention_heads,
        self.intermediate_size,
        self.hidden_act,
        self.layer_norm_eps,
        self.dtype,
        name=f"layer_{i}",
      )(x, None)
    embedding = nn.Dense(
      self.projection_dim,
      use_bias=False,
      dtype=self.dtype,
      precision=_PRECISION,
      name="projection",
    )(self._norm(x[:, 0], "norm"))
    return Seen(x, embedding)

  def _norm(self, x: Float[Array, "*b d"], name: str) -> Float[Array, "*b d"]:
    eps = self.layer_norm_eps
    return normalization.LayerNorm(eps, self.dtype, name=name)(x)
