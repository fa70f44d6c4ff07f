"""The text U-Net at 64x64 (Appendix F.1, adapting ADM's).

stem: conv 3x3 -> d
down: per level l (d * m_l channels), n x [ResNetBlock, attention], each pushed
  as a skip; then a halving ResNetBlock, pushed, except at the last level
mid: ResNetBlock, attention, ResNetBlock
up: per level from the last, (n + 1) x [ResNetBlock on concat(h, popped skip),
  attention]; then a doubling ResNetBlock, except at the first level
head: GroupNorm, swish, conv 3x3 -> 3, starting at zero, in float32

z_t [b h w c], logsnr [b], text_emb [b l d], text_mask [b l] -> [b h w 3]

A super-resolution network of this shape (Fig. A.14's comparison) is the same
class with `low_resolution_cond`: x_lr is enlarged and joins z_t on channels.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import Image, Logsnr, TextEmb, TextMask
from imagen_jax.nn import (
  attention,
  attention_blocks,
  conditioning,
  resampling,
  resnet,
  text_pooling,
  unet_blocks,
)


class BaseUNet(nn.Module):
  """ADM's U-Net with text; fields carry the names of Appendix F.1."""

  embed_dim: int  # d, channels at full resolution
  image_size: int = 64  # where attn_resolutions are counted from
  channel_mult: tuple[int, ...] = (1, 2, 3, 4)  # channels / d, by level
  num_res_blocks: int = 3  # by level on the way down; one more on the way up
  attn_resolutions: tuple[int, ...] = (32, 16, 8)  # pixels attend to pixels
  text_cross_attn_res: tuple[int, ...] = (32, 16, 8)  # pixels attend to text
  per_head_channels: int = 64
  feature_pooling_type: text_pooling.FeaturePooling = "attention"
  use_scale_shift_norm: bool = True
  dropout: float = 0.0
  out_channels: int = 3
  low_resolution_cond: bool = False  # takes x_lr and aug_level
  cond_embed_dim: int | None = None  # E, time + text vector; None is 4 d
  text_embed_dim: int | None = None  # C, tokens inside; None is 4 d
  attention_backend: attention.Backend = "exact"
  remat: resnet.Remat = "none"  # "blocks" recomputes them for gradients
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
    stride = 2 ** (len(self.channel_mult) - 1)
    conditioning.check_size(z_t.shape[1:3], (stride, stride))
    conditioning.check_text(z_t.shape[0], text_emb.shape, text_mask.shape)
    conditioning.check_low_resolution(self.low_resolution_cond, x_lr, aug_level)
    cond = conditioning.CombineEmbs(
      self.cond_embed_dim or 4 * self.embed_dim,
      self.text_embed_dim or 4 * self.embed_dim,
      sinusoid_dim=self.embed_dim,
      feature_pooling_type=self.feature_pooling_type,
      dtype=self.dtype,
      name="conditioning",
    )(logsnr, text_emb, text_mask, aug_level)
    if x_lr is not None:
      z_t = resampling.concat_low_resolution(z_t, x_lr)
    h = unet_blocks.stem(self.embed_dim, dtype=self.dtype)(z_t)
    h, skips = self._down(h, cond, train)
    h = self._middle(h, cond, train)
    h = self._up(h, skips, cond, train)
    return unet_blocks.Head(self.out_channels, name="head")(h)

  def _down(
    self, h: Image, cond: conditioning.Conditioning, train: bool
  ) -> tuple[Array, list[Array]]:
    """The encoder's result, and all its skips."""
    skips = [h]
    last = len(self.channel_mult) - 1
    for level in range(last + 1):
      for i in range(self.num_res_blocks):
        h = self._res_block(f"down_{level}_block_{i}", level)(
          h, cond.emb, train
        )
        h = self._attention(f"down_{level}_attention_{i}", level, h, cond)
        skips.append(h)
      if level < last:
        name = f"down_{level}_resample"
        h = self._res_block(name, level, "down")(h, cond.emb, train)
        skips.append(h)
    return h, skips

  def _middle(
    self, h: Image, cond: conditioning.Conditioning, train: bool
  ) -> Image:
    last = len(self.channel_mult) - 1
    h = self._res_block("mid_block_0", last)(h, cond.emb, train)
    h = self._attention("mid_attention", last, h, cond, always=True)
    return self._res_block("mid_block_1", last)(h, cond.emb, train)

  def _up(
    self,
    h: Image,
    skips: list[Array],
    cond: conditioning.Conditioning,
    train: bool,
  ) -> Float[Array, "b h2 w2 c2"]:
    """The decoder's result; consumes every skip."""
    for level in reversed(range(len(self.channel_mult))):
      for i in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._res_block(f"up_{level}_block_{i}", level)(h, cond.emb, train)
        h = self._attention(f"up_{level}_attention_{i}", level, h, cond)
      if level:
        name = f"up_{level}_resample"
        h = self._res_block(name, level, "up")(h, cond.emb, train)
    assert not skips
    return h

  def _res_block(
    self, name: str, level: int, resample: resnet.Resample = "none"
  ) -> resnet.ResNetBlock:
    return resnet.rematerialized(resnet.ResNetBlock, self.remat)(
      self.embed_dim * self.channel_mult[level],
      resample=resample,
      use_scale_shift_norm=self.use_scale_shift_norm,
      dropout=self.dropout,
      dtype=self.dtype,
      name=name,
    )

  def _attention(
    self,
    name: str,
    level: int,
    h: Image,
    cond: conditioning.Conditioning,
    *,
    always: bool = False,
  ) -> Image:
    """Attention if the resolution is listed; `always` over pixels."""
    resolution = self.image_size // 2**level
    over_pixels = always or resolution in self.attn_resolutions
    over_text = resolution in self.text_cross_attn_res
    if not (over_pixels or over_text):
      return h
    if h.shape[-1] % self.per_head_channels:
      raise errors.BadInput(
        f"{h.shape[-1]} channels at resolution {resolution} are not divisible"
        f" by per_head_channels {self.per_head_channels}; use a divisor of"
        f" embed_dim {self.embed_dim}."
      )
    module = resnet.rematerialized(attention_blocks.AttentionBlock, self.remat)
    return module(
      h.shape[-1] // self.per_head_channels,
      self_attention=over_pixels,
      text_cross_attention=over_text,
      backend=self.attention_backend,
      dtype=self.dtype,
      name=name,
    )(h, cond.text, cond.text_mask)
