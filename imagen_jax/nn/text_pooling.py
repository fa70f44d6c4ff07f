"""The text as one vector: attention pooling or the mean (Fig. A.13a).

attention: query = Dense(mean of the real tokens), keys and values = Dense of
the tokens, masked attention over the real tokens, Dense, LayerNorm.
mean: the mean of the real tokens, LayerNorm.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import TextEmb, TextMask
from imagen_jax.nn import attention, initializers, normalization

FeaturePooling = Literal["attention", "mean"]


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
