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

DeepFloyd IF's two stages are this class, too: the fields from `activation` on
are where they differ from the paper (docs/deepfloyd.md).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import Image, Logsnr, TextEmb, TextMask
from imagen_jax.nn import (
  activations,
  attention,
  attention_blocks,
  block_scan,
  conditioning,
  embeddings,
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
  # By level on the way down, one more on the way up; one number for all levels.
  num_res_blocks: int | tuple[int, ...] = 3
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
  activation: activations.Activation = "swish"
  norm_epsilon: float = 1e-6  # of every norm
  residual_divisor: float = 1.0  # of each residual block's sum
  text_norm: attention_blocks.TextNorm = "layer"  # before text keys and values
  text_input_norm: bool = True  # LayerNorm before the projection of tokens
  mask_text: bool = True  # False: padded tokens take part
  pooling_heads: int = 64  # of feature_pooling_type "class_token"
  time_input: embeddings.TimeInput = "logsnr"  # "step": 0..999, aug_level too
  learned_variance: bool = False  # as many channels again, of the variance
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
  ) -> Float[Array, "b h w o"]:
    conditioning.check_size(z_t.shape[1:3], self.strides())
    conditioning.check_text(z_t.shape[0], text_emb.shape, text_mask.shape)
    conditioning.check_low_resolution(self.low_resolution_cond, x_lr, aug_level)
    if not self.mask_text:
      text_mask = jnp.ones_like(text_mask)
    cond = conditioning.CombineEmbs(
      self.cond_embed_dim or 4 * self.embed_dim,
      self.text_embed_dim or 4 * self.embed_dim,
      sinusoid_dim=self.embed_dim,
      feature_pooling_type=self.feature_pooling_type,
      pooling_heads=self.pooling_heads,
      time_input=self.time_input,
      text_input_norm=self.text_input_norm,
      activation=self.activation,
      norm_epsilon=self.norm_epsilon,
      dtype=self.dtype,
      name="conditioning",
    )(logsnr, text_emb, text_mask, aug_level)
    if x_lr is not None:
      z_t = resampling.concat_low_resolution(z_t, x_lr)
    h = unet_blocks.stem(self.embed_dim, dtype=self.dtype)(z_t)
    h, skips = self._down(h, cond, train)
    h = self._middle(h, cond, train)
    h = self._up(h, skips, cond, train)
    return unet_blocks.Head(
      self.out_channels * (2 if self.learned_variance else 1),
      self.activation,
      self.norm_epsilon,
      name="head",
    )(h)

  def strides(self) -> tuple[int, int]:
    """How much coarser the last level is, in height and width."""
    stride = 2 ** (len(self.channel_mult) - 1)
    return stride, stride

  def _down(
    self, h: Image, cond: conditioning.Conditioning, train: bool
  ) -> tuple[Array, list[Array]]:
    """The encoder's result, and all its skips."""
    skips = [h]
    last = len(self.channel_mult) - 1

    def step(blocks: block_scan.Blocks, h: Image, _: None) -> tuple:
      h = self._through(blocks, h, cond, train)
      return h, h

    for level in range(last + 1):
      names = _names("down", level, self._num_res_blocks(level))
      h, outs = self._run(level, names, step, h)
      skips += outs
      if level < last:
        resample = self._res_block(level, "down")
        h = resample(name=f"down_{level}_resample")(h, cond.emb, train)
        skips.append(h)
    return h, skips

  def _middle(
    self, h: Image, cond: conditioning.Conditioning, train: bool
  ) -> Image:
    last = len(self.channel_mult) - 1
    block, attend = self._res_block(last), self._attention(last, always=True)
    h = block(name="mid_block_0")(h, cond.emb, train)
    h = attend(name="mid_attention")(h, cond.text, cond.text_mask)
    return block(name="mid_block_1")(h, cond.emb, train)

  def _up(
    self,
    h: Image,
    skips: list[Array],
    cond: conditioning.Conditioning,
    train: bool,
  ) -> Float[Array, "b h2 w2 c2"]:
    """The decoder's result; consumes every skip."""

    def step(blocks: block_scan.Blocks, h: Image, skip: Array) -> tuple:
      h = jnp.concatenate([h, skip], axis=-1)
      return self._through(blocks, h, cond, train), None

    for level in reversed(range(len(self.channel_mult))):
      names = _names("up", level, self._num_res_blocks(level) + 1)
      taken = [skips.pop() for _ in names]
      h, _ = self._run(level, names, step, h, taken)
      if level:
        resample = self._res_block(level, "up")
        h = resample(name=f"up_{level}_resample")(h, cond.emb, train)
    assert not skips
    return h

  def _num_res_blocks(self, level: int) -> int:
    if isinstance(self.num_res_blocks, int):
      return self.num_res_blocks
    if len(self.num_res_blocks) != len(self.channel_mult):
      raise errors.BadInput(
        f"num_res_blocks {self.num_res_blocks} has {len(self.num_res_blocks)}"
        f" numbers for {len(self.channel_mult)} levels; give one for each level"
        " of channel_mult, or one for all."
      )
    return self.num_res_blocks[level]

  def _run(
    self,
    level: int,
    names: list[dict[str, str]],
    step: block_scan.Step,
    h: Image,
    taken: list[Array] | None = None,
  ) -> tuple[Float[Array, "b h w c2"], list[Array | None]]:
    """The turns of a level, each a residual block and perhaps attention."""
    makes = {"block": self._res_block(level)}
    if (attend := self._attention(level)) is not None:
      makes["attention"] = attend
    names = [{kind: called[kind] for kind in makes} for called in names]
    scan, forget = self.scan_blocks, self.remat == "full"
    return block_scan.run(
      self, makes, names, step, h, taken, scan=scan, forget=forget
    )

  def _through(
    self,
    blocks: block_scan.Blocks,
    h: Image,
    cond: conditioning.Conditioning,
    train: bool,
  ) -> Float[Array, "b h w c2"]:
    h = blocks["block"](h, cond.emb, train)
    if "attention" not in blocks:
      return h
    return blocks["attention"](h, cond.text, cond.text_mask)

  def _res_block(
    self, level: int, resample: resnet.Resample = "none"
  ) -> block_scan.Make:
    return functools.partial(
      resnet.rematerialized(resnet.ResNetBlock, self.remat),
      self.embed_dim * self.channel_mult[level],
      resample=resample,
      use_scale_shift_norm=self.use_scale_shift_norm,
      dropout=self.dropout,
      activation=self.activation,
      norm_epsilon=self.norm_epsilon,
      divisor=self.residual_divisor,
      dtype=self.dtype,
    )

  def _attention(
    self, level: int, *, always: bool = False
  ) -> block_scan.Make | None:
    """Attention if the resolution is listed; `always` over pixels."""
    resolution = self.image_size // 2**level
    over_pixels = always or resolution in self.attn_resolutions
    over_text = resolution in self.text_cross_attn_res
    if not (over_pixels or over_text):
      return None
    channels = self.embed_dim * self.channel_mult[level]
    if channels % self.per_head_channels:
      raise errors.BadInput(
        f"{channels} channels at resolution {resolution} are not divisible"
        f" by per_head_channels {self.per_head_channels}; use a divisor of"
        f" embed_dim {self.embed_dim}."
      )
    return functools.partial(
      resnet.rematerialized(attention_blocks.AttentionBlock, self.remat),
      channels // self.per_head_channels,
      self_attention=over_pixels,
      text_cross_attention=over_text,
      text_norm=self.text_norm,
      norm_epsilon=self.norm_epsilon,
      backend=self.attention_backend,
      dtype=self.dtype,
    )


def _names(way: str, level: int, count: int) -> list[dict[str, str]]:
  """What the blocks of each turn of a level are called."""
  return [
    {kind: f"{way}_{level}_{kind}_{i}" for kind in ("block", "attention")}
    for i in range(count)
  ]
