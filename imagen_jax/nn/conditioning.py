"""All that conditions the blocks: `CombineEmbs`, and the checks of the inputs.

text = Dense_C(LN(text_emb))                    tokens, for attention
emb = swish(MLP(sinusoid(u(logsnr)))            time
            + MLP(LN(pool(text)))               pooled text
            + MLP(sinusoid(aug_level)))         super-resolution only

The swish that every ResNet block would apply to `emb` is applied here, once.
Padded tokens are set to zero at the door: no value there, not even NaN, can
reach the result.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors, shapes
from imagen_jax.core.arrays import Logsnr, TextEmb, TextMask
from imagen_jax.nn import embeddings, initializers, normalization, text_pooling


class Conditioning(NamedTuple):
  """What the blocks receive."""

  emb: Float[Array, "b e"]  # after swish
  text: TextEmb  # tokens at the width of the U-Net
  text_mask: TextMask


class CombineEmbs(nn.Module):
  """Time, pooled text and, for super-resolution, aug_level as one vector."""

  emb_dim: int  # E, width of the vector
  text_dim: int  # C, width of the tokens in the U-Net
  sinusoid_dim: int  # width of the sinusoid before its MLP
  feature_pooling_type: text_pooling.FeaturePooling = "attention"  # Appendix F
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self,
    logsnr: Logsnr,
    text_emb: TextEmb,
    text_mask: TextMask,
    aug_level: Float[Array, "b"] | None = None,
  ) -> Conditioning:
    text = self._project(text_emb, text_mask)
    pooled = text_pooling.TextPooling(
      feature_pooling_type=self.feature_pooling_type,
      dtype=self.dtype,
      name="text_pooling",
    )(text, text_mask)
    emb = self._mlp("time_mlp")(
      self._sinusoid(embeddings.logsnr_to_unit(logsnr))
    ) + self._mlp("text_mlp")(pooled)
    if aug_level is not None:
      emb += self._mlp("aug_level_mlp")(self._sinusoid(aug_level))
    return Conditioning(nn.swish(emb), text, text_mask)

  def _project(
    self, text_emb: TextEmb, text_mask: TextMask
  ) -> Float[Array, "b l {self.text_dim}"]:
    text = jnp.where(text_mask[:, :, None], text_emb, 0)
    text = normalization.LayerNorm(dtype=self.dtype, name="text_norm")(text)
    return nn.Dense(
      self.text_dim,
      dtype=self.dtype,
      kernel_init=initializers.default,
      name="text_projection",
    )(text)

  def _mlp(self, name: str) -> embeddings.EmbeddingMLP:
    return embeddings.EmbeddingMLP(self.emb_dim, dtype=self.dtype, name=name)

  def _sinusoid(self, unit: Float[Array, "b"]) -> Float[Array, "b d"]:
    wide = unit.astype(jnp.promote_types(unit.dtype, jnp.float32))
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
