"""The Efficient U-Net for super-resolution (Fig. A.30, Appendix F.2 and F.3).

stem: conv 3x3 -> channels of level 1, on [z_t, x_lr enlarged]
down: DBlock 1 .. n, each of which strides first
up: UBlock n .. 1, each of which enlarges last; UBlock n takes DBlock n's result
  and no skip, the others concat(previous, DBlock skip)
head: GroupNorm, swish, conv 3x3 -> 3, starting at zero, in float32

z_t [b h w c], logsnr [b], text_emb [b l d], text_mask [b l],
x_lr [b h' w' c], aug_level [b] -> [b h w 3]

Without self-attention nothing depends on the size of the image but GroupNorm's
statistics: the 1024 model trains on 256 crops and runs on the whole.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Image, Logsnr, TextEmb, TextMask
from imagen_jax.nn import (
  attention,
  conditioning,
  resampling,
  resnet,
  text_pooling,
  unet_blocks,
)


class EfficientUNet(nn.Module):
  """U-Net of DBlocks and UBlocks; fields carry the names of Appendix F."""

  blocks: tuple[unet_blocks.Block, ...]  # levels, from the finest
  feature_pooling_type: text_pooling.FeaturePooling = "attention"
  use_scale_shift_norm: bool = True
  dropout: float = 0.0
  out_channels: int = 3
  low_resolution_cond: bool = True  # takes x_lr and aug_level
  cond_embed_dim: int = 2048  # E, time + text + aug_level vector
  text_embed_dim: int = 1024  # C, tokens inside
  inner_mult: int = 2  # attention's inner width / channels ("hidden_size")
  skip_scale: resnet.SkipScale = "residual"  # what 1 / sqrt(2) scales
  skip_merge: unet_blocks.SkipMerge = "concat"  # of DBlock skips in UBlocks
  attention_backend: attention.Backend = "exact"
  remat: resnet.Remat = "none"  # what gradients compute again
  scan_blocks: bool = False  # equal blocks of a level in one loop
  dtype: DTypeLike = jnp.float32  # of the computation; parameters are float32

  @nn.compact
  def __call__(
    self,
    z_t: Image,
    logsnr: Logsnr,
    text_emb: TextEmb,
    text_mask: TextMask,
    x_lr: Float[Array, "b h2 w2 c2"] | None = None,
    aug_level: Float[Array, "b"] | None = None,
    train: bool = False,
  ) -> Float[Array, "b h w {self.out_channels}"]:
    conditioning.check_size(z_t.shape[1:3], self.strides())
    conditioning.check_text(z_t.shape[0], text_emb.shape, text_mask.shape)
    conditioning.check_low_resolution(self.low_resolution_cond, x_lr, aug_level)
    width = self.blocks[0].channels
    cond = conditioning.CombineEmbs(
      self.cond_embed_dim,
      self.text_embed_dim,
      sinusoid_dim=width,
      feature_pooling_type=self.feature_pooling_type,
      dtype=self.dtype,
      name="conditioning",
    )(logsnr, text_emb, text_mask, aug_level)
    if x_lr is not None:
      z_t = resampling.concat_low_resolution(z_t, x_lr)
    h = unet_blocks.stem(width, dtype=self.dtype)(z_t)
    h = self._up(self._down(h, cond, train), cond, train)
    return unet_blocks.Head(self.out_channels, name="head")(h)

  def _down(
    self, h: Image, cond: conditioning.Conditioning, train: bool
  ) -> list[Array]:
    """The result of each DBlock, from the finest."""
    results = []
    for level, block in enumerate(self.blocks):
      name = f"down_{level}"
      h = unet_blocks.DBlock(block, self._options(), name=name)(h, cond, train)
      results.append(h)
    return results

  def _up(
    self, skips: list[Array], cond: conditioning.Conditioning, train: bool
  ) -> Float[Array, "b h w c"]:
    """The decoder's result, at the image's size."""
    h, skip = skips.pop(), None
    for level in reversed(range(len(self.blocks))):
      above = self.blocks[max(level - 1, 0)].channels
      h = unet_blocks.UBlock(
        self.blocks[level], self._options(), above, name=f"up_{level}"
      )(h, skip, cond, train)
      skip = skips.pop() if skips else None
    return h

  def _options(self) -> unet_blocks.Options:
    return unet_blocks.Options(
      inner_mult=self.inner_mult,
      skip_scale=self.skip_scale,
      skip_merge=self.skip_merge,
      use_scale_shift_norm=self.use_scale_shift_norm,
      dropout=self.dropout,
      attention_backend=self.attention_backend,
      remat=self.remat,
      scan_blocks=self.scan_blocks,
      dtype=self.dtype,
    )

  def strides(self) -> tuple[int, int]:
    """How much coarser the last level is, in height and width."""
    down, across = zip(*(block.strides for block in self.blocks), strict=True)
    return math.prod(down), math.prod(across)
