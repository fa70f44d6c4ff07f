"""The residual block of both U-Nets (Fig. A.27; BigGAN form in Appendix F.1).

h = conv(resample(act(GroupNorm(x))))
h = conv(dropout(act(GroupNorm(h) * (1 + scale) + shift)))
out = (shortcut(resample(x)) + h) / divisor

act is swish and the divisor 1 unless said otherwise. scale, shift = Dense(emb),
where `emb` has already passed its activation: it is the same for all blocks.
The second convolution starts at zero. The Efficient U-Net always has a 1x1
convolution on the shortcut; the base has one only where the number of channels
changes.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Image
from imagen_jax.nn import (
  activations,
  convolution,
  initializers,
  normalization,
  resampling,
)

SkipScale = Literal["residual", "shortcut", "unet", "none"]
Resample = Literal["none", "up", "down"]
# What a gradient computes again rather than keep: nothing; the inside of each
# block; and all that is between the ends of a level, blocks once more in it.
Remat = Literal["none", "blocks", "full"]

_RESAMPLE = {
  "none": lambda x: x,
  "up": resampling.enlarge_nearest,
  "down": resampling.halve_average,
}


class ResNetBlock(nn.Module):
  """Two convolutions, conditioned on `emb`, around a shortcut."""

  channels: int  # of the result
  kernel_size: tuple[int, int] = (3, 3)
  resample: Resample = "none"
  shortcut_conv: bool = False  # a 1x1 convolution even for equal channels
  skip_scale: SkipScale = "none"  # what is divided by sqrt(2)
  use_scale_shift_norm: bool = True  # Appendix F; False adds Dense(emb)
  dropout: float = 0.0
  activation: activations.Activation = "swish"
  norm_epsilon: float = 1e-6
  divisor: float = 1.0  # of the residual sum, after skip_scale
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self, x: Image, emb: Float[Array, "b e"], train: bool = False
  ) -> Float[Array, "b h2 w2 {self.channels}"]:
    resample = _RESAMPLE[self.resample]
    h = self._norm("norm_0")(x)
    h = self._conv(resample(h), "conv_0", initializers.default)
    h = self._condition(h, emb)
    if self.dropout:
      h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = self._conv(h, "conv_1", initializers.zeros)
    shortcut = resample(x)
    if self.shortcut_conv or x.shape[-1] != self.channels:
      shortcut = convolution.Conv(
        self.channels,
        kernel_size=(1, 1),
        dtype=self.dtype,
        kernel_init=initializers.default,
        name="shortcut",
      )(shortcut)
    out = add_skip(shortcut, h, self.skip_scale)
    return out if self.divisor == 1.0 else out / self.divisor

  def _norm(self, name: str) -> normalization.GroupNorm:
    return normalization.GroupNorm(
      self.activation, self.norm_epsilon, self.dtype, name=name
    )

  def _conv(
    self, x: Image, name: str, kernel_init: initializers.Initializer
  ) -> Float[Array, "b h w {self.channels}"]:
    return convolution.Conv(
      self.channels,
      kernel_size=self.kernel_size,
      dtype=self.dtype,
      kernel_init=kernel_init,
      name=name,
    )(x)

  def _condition(self, h: Image, emb: Float[Array, "b e"]) -> Image:
    norm = self._norm("norm_1")
    modulation = nn.Dense(
      self.channels * (2 if self.use_scale_shift_norm else 1),
      dtype=self.dtype,
      kernel_init=initializers.default,
      name="modulation",
    )(emb)
    if self.use_scale_shift_norm:
      return norm(h, modulation)
    return norm(h + modulation[:, None, None])


def add_skip(shortcut: Image, h: Image, skip_scale: SkipScale) -> Image:
  """The residual sum; "residual" and "shortcut" say what is scaled."""
  if skip_scale == "residual":
    return (shortcut + h) * 0.5**0.5
  if skip_scale == "shortcut":
    return shortcut * 0.5**0.5 + h
  return shortcut + h


def rematerialized(module: type[nn.Module], remat: Remat) -> type[nn.Module]:
  """The module class; its inside is recomputed for gradients, if `remat` says.

  On CPU this saves nothing: XLA drops there the barriers that keep it from
  finding, and storing, the first computation again. `train`, the third argument
  of `ResNetBlock`, stays a Python value.
  """
  if remat == "none":
    return module
  static = (3,) if module is ResNetBlock else ()
  return nn.remat(module, static_argnums=static)
