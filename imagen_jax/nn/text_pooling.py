"""The text as one vector: attention pooling or the mean (Fig. A.13a).

TextPooling, of the tokens inside the U-Net:

attention: query = Dense(mean of the real tokens), keys and values = Dense of
the tokens, masked attention over the real tokens, Dense, LayerNorm.
mean: the mean of the real tokens, LayerNorm.

ClassTokenPooling, of the encoder's own tokens, is DeepFloyd IF's: with t the
LayerNorm of the tokens and c = mean(t) + bias, one query c over keys and values
of [c, t], then Dense to the width of the embedding and LayerNorm.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import TextEmb, TextMask
from imagen_jax.nn import attention, initializers, normalization

FeaturePooling = Literal["attention", "mean", "class_token"]


def masked_mean(text: TextEmb, text_mask: TextMask) -> Float[Array, "b d"]:
  """Mean of the tokens where the mask is true; 0 where none is. Float32."""
  wide = jnp.promote_types(text.dtype, jnp.float32)
  kept = jnp.where(text_mask[:, :, None], text.astype(wide), 0)
  count = jnp.maximum(text_mask.sum(axis=1), 1).astype(wide)
  return kept.sum(axis=1) / count[:, None]


class TextPooling(nn.Module):
  """[b l d] tokens -> [b d]."""

  feature_pooling_type: FeaturePooling = "attention"  # Appendix F
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, text: TextEmb, text_mask: TextMask) -> Float[Array, "b d"]:
    pooled = masked_mean(text, text_mask).astype(self.dtype)
    if self.feature_pooling_type == "attention":
      pooled = self._attend(pooled, text, text_mask)
    return normalization.LayerNorm(dtype=self.dtype, name="norm")(pooled)

  def _attend(
    self, mean: Float[Array, "b d"], text: TextEmb, text_mask: TextMask
  ) -> Float[Array, "b d"]:
    b, _, d = text.shape
    head_width = math.gcd(64, d)
    query, key, value = (
      self._dense(d, name)(x).reshape(b, -1, d // head_width, head_width)
      for name, x in (("query", mean), ("key", text), ("value", text))
    )
    attended = attention.dot_product(query, key, value, text_mask)
    return self._dense(d, "out")(attended.reshape(b, d))

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, dtype=self.dtype, kernel_init=initializers.default, name=name
    )


class ClassTokenPooling(nn.Module):
  """[b l d] tokens -> [b e], by attention from a class token."""

  features: int  # e
  num_heads: int  # divides d
  norm_epsilon: float = 1e-5
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self, text: TextEmb, text_mask: TextMask
  ) -> Float[Array, "b {self.features}"]:
    b, _, d = text.shape
    if d % self.num_heads:
      raise errors.BadInput(
        f"text of width {d} is not divisible by {self.num_heads} heads; change"
        " pooling_heads."
      )
    text = self._norm("norm_0")(text)
    bias = self.param("bias", initializers.zeros, (d,))
    token = masked_mean(text, text_mask).astype(self.dtype)
    token = (token + bias.astype(self.dtype)[None])[:, None]
    tokens = jnp.concatenate([token, text], axis=1)
    mask = jnp.concatenate([jnp.ones((b, 1), bool), text_mask], axis=1)
    query, key, value = (
      self._dense(d, name)(x).reshape(
        b, -1, self.num_heads, d // self.num_heads
      )
      for name, x in (("query", token), ("key", tokens), ("value", tokens))
    )
    attended = attention.dot_product(query, key, value, mask)
    pooled = self._dense(self.features, "out")(attended.reshape(b, d))
    return self._norm("norm_1")(pooled)

  def _norm(self, name: str) -> normalization.LayerNorm:
    return normalization.LayerNorm(self.norm_epsilon, self.dtype, name=name)

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, dtype=self.dtype, kernel_init=initializers.default, name=name
    )
