"""Attention of pixels over pixels and text (Appendix D.3.1).

y = x + out(attention(query(GN(x)), [key(GN(x)), text_key(TN(text))], ...))

One softmax runs over the h*w pixels and the l text tokens together, so that
text costs hardly more than self-attention alone. Without `self_attention` the
sources are text alone (the 256 -> 1024 model); without
`text_cross_attention`, pixels alone. Padded text is masked, pixels never are.
`out` starts at zero. No feed-forward follows.

The norm TN on text is a LayerNorm (Appendix D.3.1), or a GroupNorm whose
statistics go over all tokens, padding included, as in DeepFloyd IF.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import Image, TextEmb, TextMask
from imagen_jax.nn import attention, initializers, normalization

TextNorm = Literal["layer", "group"]


class AttentionBlock(nn.Module):
  """Residual attention with `num_heads` heads of inner width / num_heads."""

  num_heads: int
  inner_mult: int = 1  # inner width / channels (Fig. A.28: hidden_size)
  self_attention: bool = True
  text_cross_attention: bool = True
  text_norm: TextNorm = "layer"
  norm_epsilon: float = 1e-6
  backend: attention.Backend = "exact"
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Image, text: TextEmb, text_mask: TextMask) -> Image:
    b, h, w, c = x.shape
    if not (self.self_attention or self.text_cross_attention):
      raise ValueError("an attention block needs pixels, text or both")
    if c * self.inner_mult % self.num_heads:
      raise errors.BadInput(
        f"{c * self.inner_mult} attention channels are not divisible by"
        f" {self.num_heads} heads; change num_attention_heads."
      )
    pixels = normalization.GroupNorm(
      epsilon=self.norm_epsilon, dtype=self.dtype, name="norm"
    )(x)
    pixels = pixels.reshape(b, h * w, c)
    query = self._heads(pixels, c, "query")
    key, value, mask = self._sources(pixels, text, text_mask)
    attended = attention.dot_product(
      query, key, value, mask, backend=self.backend
    )
    out = nn.Dense(
      c, dtype=self.dtype, kernel_init=initializers.zeros, name="out"
    )(attended.reshape(b, h * w, c * self.inner_mult))
    return x + out.reshape(x.shape)

  def _sources(
    self,
    pixels: Float[Array, "b p c"],
    text: TextEmb,
    text_mask: TextMask,
  ) -> tuple[Array, Array, Array | None]:
    """Keys and values [b s n k] and their mask; None is all true."""
    c = pixels.shape[-1]
    keys, values, masks = [], [], []
    if self.self_attention:
      keys.append(self._heads(pixels, c, "key"))
      values.append(self._heads(pixels, c, "value"))
      masks.append(jnp.ones(pixels.shape[:2], bool))
    if not self.text_cross_attention:
      return keys[0], values[0], None
    text = self._norm_text(text)
    keys.append(self._heads(text, c, "text_key"))
    values.append(self._heads(text, c, "text_value"))
    masks.append(text_mask)
    key, value, mask = (
      jnp.concatenate(parts, axis=1) for parts in (keys, values, masks)
    )
    return key, value, mask

  def _norm_text(self, text: TextEmb) -> TextEmb:
    if self.text_norm == "layer":
      return normalization.LayerNorm(
        self.norm_epsilon, self.dtype, name="text_norm"
      )(text)
    if self.text_norm == "group":
      return normalization.GroupNorm(
        epsilon=self.norm_epsilon, dtype=self.dtype, name="text_norm"
      )(text[:, :, None])[:, :, 0]
    raise errors.BadInput(
      f"text_norm {self.text_norm!r} is unknown; use 'layer' or 'group'."
    )

  def _heads(
    self, x: Float[Array, "b s d"], channels: int, name: str
  ) -> Float[Array, "b s n k"]:
    """A projection of `x`, split into heads."""
    inner = channels * self.inner_mult
    y = nn.Dense(
      inner, dtype=self.dtype, kernel_init=initializers.default, name=name
    )(x)
    return y.reshape(*x.shape[:2], self.num_heads, inner // self.num_heads)
