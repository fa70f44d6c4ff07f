"""All that conditions the blocks: `CombineEmbs`, and the checks of the inputs.

text = Dense_C(LN(text_emb))                    tokens, for attention
emb = swish(MLP(sinusoid(u(logsnr)))            time
            + MLP(LN(pool(text)))               pooled text
            + MLP(sinusoid(aug_level)))         super-resolution only

The swish that every ResNet block would apply to `emb` is applied here, once.
Padded tokens are set to zero at the door: no value there, not even NaN, can
reach the result.

With DeepFloyd IF's fields: text = Dense_C(text_emb); the pooled text is that of
`ClassTokenPooling`, as it is; time and aug_level are steps 0..999; gelu.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors, shapes
from imagen_jax.core.arrays import Logsnr, TextEmb, TextMask
from imagen_jax.nn import (
  activations,
  embeddings,
  initializers,
  normalization,
  text_pooling,
)


class Conditioning(NamedTuple):
  """What the blocks receive."""

  emb: Float[Array, "b e"]  # after its activation
  text: TextEmb  # tokens at the width of the U-Net
  text_mask: TextMask


class CombineEmbs(nn.Module):
  """Time, pooled text and, for super-resolution, aug_level as one vector."""

  emb_dim: int  # E, width of the vector
  text_dim: int  # C, width of the tokens in the U-Net
  sinusoid_dim: int  # width of the sinusoid before its MLP
  feature_pooling_type: text_pooling.FeaturePooling = "attention"  # Appendix F
  pooling_heads: int = 64  # of "class_token"
  time_input: embeddings.TimeInput = "logsnr"  # of logsnr and aug_level
  text_input_norm: bool = True  # LayerNorm before the projection of tokens
  activation: activations.Activation = "swish"
  norm_epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self,
    logsnr: Logsnr,
    text_emb: TextEmb,
    text_mask: TextMask,
    aug_level: Float[Array, "b"] | None = None,
  ) -> Conditioning:
    text_emb = jnp.where(text_mask[:, :, None], text_emb, 0)
    text = self._project(text_emb)
    if self.time_input == "logsnr":
      logsnr = embeddings.logsnr_to_unit(logsnr)
    emb = self._mlp("time_mlp")(self._sinusoid(logsnr))
    emb += self._pool(text_emb, text, text_mask)
    if aug_level is not None:
      emb += self._mlp("aug_level_mlp")(self._sinusoid(aug_level))
    emb = activations.apply(self.activation, emb)
    return Conditioning(emb, text, text_mask)

  def _pool(
    self,
    text_emb: TextEmb,
    text: Float[Array, "b l c"],
    text_mask: TextMask,
  ) -> Float[Array, "b {self.emb_dim}"]:
    """The pooled text's share of the vector."""
    if self.feature_pooling_type == "class_token":
      return text_pooling.ClassTokenPooling(
        self.emb_dim,
        self.pooling_heads,
        self.norm_epsilon,
        self.dtype,
        name="text_pooling",
      )(text_emb, text_mask)
    pooled = text_pooling.TextPooling(
      feature_pooling_type=self.feature_pooling_type,
      dtype=self.dtype,
      name="text_pooling",
    )(text, text_mask)
    return self._mlp("text_mlp")(pooled)

  def _project(self, text: TextEmb) -> Float[Array, "b l {self.text_dim}"]:
    if self.text_input_norm:
      text = normalization.LayerNorm(
        self.norm_epsilon, self.dtype, name="text_norm"
      )(text)
    return nn.Dense(
      self.text_dim,
      dtype=self.dtype,
      kernel_init=initializers.default,
      name="text_projection",
    )(text)

  def _mlp(self, name: str) -> embeddings.EmbeddingMLP:
    return embeddings.EmbeddingMLP(
      self.emb_dim, self.activation, self.dtype, name=name
    )

  def _sinusoid(self, level: Float[Array, "b"]) -> Float[Array, "b d"]:
    wide = level.astype(jnp.promote_types(level.dtype, jnp.float32))
    if self.time_input == "step":
      return embeddings.step_sinusoid(wide, self.sinusoid_dim)
    return embeddings.sinusoid(wide, self.sinusoid_dim)


def check_size(size: tuple[int, int], divisors: tuple[int, int]) -> None:
  """Raises BadInput unless the U-Net can divide height and width."""
  for length, by, what in zip(size, divisors, ("height", "width"), strict=True):
    shapes.check_divisible(length, by, f"image {what}")


def check_text(
  batch: int, text_emb: tuple[int, ...], text_mask: tuple[int, ...]
) -> None:
  """Raises BadInput unless the shapes are (b, l, d) and (b, l)."""
  if len(text_emb) != 3 or text_emb[0] != batch:
    raise errors.BadInput(
      f"text_emb has shape {text_emb}, expected ({batch}, tokens, width):"
      " one row of tokens for each image."
    )
  if text_mask != text_emb[:2]:
    raise errors.BadInput(
      f"text_mask has shape {text_mask}, expected {text_emb[:2]}: one bool for"
      " each token of text_emb."
    )


def check_low_resolution(
  wanted: bool, x_lr: Array | None, aug_level: Array | None
) -> None:
  """Raises BadInput unless both are there, or neither, as `wanted`."""
  given = [
    name
    for name, value in (("x_lr", x_lr), ("aug_level", aug_level))
    if value is not None
  ]
  if wanted and len(given) < 2:
    raise errors.BadInput(
      f"this super-resolution network needs x_lr and aug_level, given"
      f" {given or 'neither'}; pass the low-resolution image [b h w c] and its"
      " noise level [b] in [0, 1]."
    )
  if given and not wanted:
    raise errors.BadInput(
      f"this network takes no low-resolution image, given {given}; leave them"
      " out, or set low_resolution_cond=True."
    )
