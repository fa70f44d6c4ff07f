"""DBlock and UBlock of the Efficient U-Net (Figs. A.28, A.29).

DBlock: strided conv -> ResNetBlock x n -> attention
UBlock: merge(previous UBlock, DBlock skip) -> ResNetBlock x n -> attention
        -> nearest enlargement -> conv

Resolution falls first on the way down and rises last on the way up, so that
all blocks of a level run at its lower resolution. The paper's CombineEmbs is
one vector for the whole network here (`conditioning.CombineEmbs`), which
modulates every ResNetBlock. Blocks of stride 1 have no resampling convolution.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import Image
from imagen_jax.nn import (
  activations,
  attention,
  attention_blocks,
  block_scan,
  conditioning,
  convolution,
  initializers,
  normalization,
  resampling,
  resnet,
)

SkipMerge = Literal["concat", "add"]


@dataclasses.dataclass(frozen=True)
class Block:
  """One level, down and up: a row of the tables in Appendix F.2 and F.3."""

  channels: int
  strides: tuple[int, int] = (2, 2)  # (1, 1) keeps the resolution
  kernel_size: tuple[int, int] = (3, 3)
  num_res_blocks: int = 2
  self_attention: bool = False
  text_cross_attention: bool = False
  num_attention_heads: int = 8

  @classmethod
  def from_dict(cls, fields: Mapping[str, object]) -> "Block":
    """A Block from a config's plain dict; lists become tuples."""
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
      raise errors.BadInput(
        f"unknown block fields {unknown}; use {sorted(known)}."
      )
    return cls(
      **{
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
      }
    )


@dataclasses.dataclass(frozen=True)
class Options:
  """What all levels share; `EfficientUNet` has the same fields."""

  inner_mult: int = 2  # attention's inner width / channels (Fig. A.28)
  skip_scale: resnet.SkipScale = "residual"
  skip_merge: SkipMerge = "concat"
  use_scale_shift_norm: bool = True
  dropout: float = 0.0
  attention_backend: attention.Backend = "exact"
  remat: resnet.Remat = "none"
  scan_blocks: bool = False
  dtype: DTypeLike = jnp.float32  # of the computation


class _Level(nn.Module):
  """What DBlock and UBlock share: residual blocks, then attention."""

  block: Block
  options: Options

  def _res_blocks(
    self, x: Image, cond: conditioning.Conditioning, train: bool
  ) -> Float[Array, "b h w {self.block.channels}"]:
    res_block = functools.partial(
      resnet.rematerialized(resnet.ResNetBlock, self.options.remat),
      self.block.channels,
      kernel_size=self.block.kernel_size,
      shortcut_conv=True,
      skip_scale=self.options.skip_scale,
      use_scale_shift_norm=self.options.use_scale_shift_norm,
      dropout=self.options.dropout,
      dtype=self.options.dtype,
    )

    def step(blocks: block_scan.Blocks, h: Image, _: None) -> tuple:
      return blocks["block"](h, cond.emb, train), None

    count, scan = self.block.num_res_blocks, self.options.scan_blocks
    forget = self.options.remat == "full"
    names = [{"block": f"block_{i}"} for i in range(count)]
    makes = {"block": res_block}
    x, _ = block_scan.run(self, makes, names, step, x, scan=scan, forget=forget)
    return x

  def _attention(self, x: Image, cond: conditioning.Conditioning) -> Image:
    if not (self.block.self_attention or self.block.text_cross_attention):
      return x
    attend = resnet.rematerialized(
      attention_blocks.AttentionBlock, self.options.remat
    )
    return attend(
      self.block.num_attention_heads,
      inner_mult=self.options.inner_mult,
      self_attention=self.block.self_attention,
      text_cross_attention=self.block.text_cross_attention,
      backend=self.options.attention_backend,
      dtype=self.options.dtype,
      name="attention",
    )(x, cond.text, cond.text_mask)

  def _conv(
    self, x: Image, channels: int, strides: tuple[int, int]
  ) -> Float[Array, "b h2 w2 c2"]:
    return convolution.Conv(
      channels,
      kernel_size=self.block.kernel_size,
      strides=strides,
      dtype=self.options.dtype,
      kernel_init=initializers.default,
      name="resample",
    )(x)


def merge_skip(
  h: Image, skip: Float[Array, "b h w c2"], options: Options
) -> Float[Array, "b h w c3"]:
  """Decoder features with those of the encoder; "unet" scales the latter.

  A sum is divided by sqrt(2) unless skip_scale is "none".
  """
  if options.skip_merge == "add":
    total = h + skip
    return total if options.skip_scale == "none" else total * 0.5**0.5
  if options.skip_scale == "unet":
    skip = skip * 0.5**0.5
  return jnp.concatenate([h, skip], axis=-1)


class DBlock(_Level):
  """One level of the encoder."""

  @nn.compact
  def __call__(
    self, x: Image, cond: conditioning.Conditioning, train: bool = False
  ) -> Float[Array, "b h2 w2 {self.block.channels}"]:
    if self.block.strides != (1, 1):
      x = self._conv(x, self.block.channels, self.block.strides)
    return self._attention(self._res_blocks(x, cond, train), cond)


class UBlock(_Level):
  """One level of the decoder."""

  out_channels: int  # width of the level above

  @nn.compact
  def __call__(
    self,
    x: Image,
    skip: Float[Array, "b h w c2"] | None,
    cond: conditioning.Conditioning,
    train: bool = False,
  ) -> Float[Array, "b h2 w2 c3"]:
    if skip is not None:
      x = merge_skip(x, skip, self.options)
    x = self._attention(self._res_blocks(x, cond, train), cond)
    if self.block.strides == (1, 1):
      return x
    x = resampling.enlarge_nearest(x, self.block.strides)
    return self._conv(x, self.out_channels, (1, 1))


def stem(channels: int, *, dtype: DTypeLike) -> convolution.Conv:
  """The first convolution of a U-Net."""
  return convolution.Conv(
    channels, dtype=dtype, kernel_init=initializers.default, name="stem"
  )


class Head(nn.Module):
  """GroupNorm, activation, conv 3x3 from zeros, in float32: the output.

  eps_hat is multiplied by up to sigma / alpha = 2e4 on the way to x0_hat, so it
  is not rounded to bfloat16.
  """

  out_channels: int
  activation: activations.Activation = "swish"
  norm_epsilon: float = 1e-6

  @nn.compact
  def __call__(self, h: Image) -> Float[Array, "b h w {self.out_channels}"]:
    wide = jnp.promote_types(h.dtype, jnp.float32)
    h = normalization.GroupNorm(
      self.activation, self.norm_epsilon, wide, name="norm"
    )(h)
    return convolution.Conv(
      self.out_channels,
      dtype=wide,
      kernel_init=initializers.zeros,
      name="conv",
    )(h)
