"""Noise level -> vector: a sinusoid of u in [0, 1], then a two-layer MLP.

u = (2 / pi) arctan(exp(-logsnr / 2)) equals t for the ideal cosine schedule and
is finite for every logsnr, infinities included, so one network serves every
schedule. The sinusoid of 1000 u is in float32 whatever the compute dtype: its
highest frequency turns by 1000 radians.

A network of the discrete process (DeepFloyd IF's) is told the step 0..999
itself, and has a sinusoid that differs in order and in its last frequency.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Logsnr
from imagen_jax.nn import activations, initializers

# What a network is told of the noise: logsnr, or a step of 1000.
TimeInput = Literal["logsnr", "step"]


def logsnr_to_unit(logsnr: Logsnr) -> Float[Array, "b"]:
  """u = (2 / pi) arctan(exp(-logsnr / 2)), in [0, 1], rising with the noise."""
  logsnr = logsnr.astype(jnp.promote_types(logsnr.dtype, jnp.float32))
  return jnp.arctan(jnp.exp(-logsnr / 2)) * (2 / math.pi)


def sinusoid(
  unit: Float[Array, "b"], width: int, *, max_period: float = 10_000.0
) -> Float[Array, "b width"]:
  """[sin(1000 u f_k), cos(1000 u f_k)], f_k = max_period**(-k / (n - 1)).

  k counts from 0 to n - 1 and n is half of `width`, which is even.
  """
  if width % 2 or width < 4:
    raise ValueError(f"width {width} of a sinusoid must be even, at least 4")
  half = width // 2
  k = jnp.arange(half, dtype=unit.dtype)
  frequencies = jnp.exp(k * (-math.log(max_period) / (half - 1)))
  angles = (1000 * unit)[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def step_sinusoid(
  step: Float[Array, "b"], width: int, *, max_period: float = 10_000.0
) -> Float[Array, "b width"]:
  """[cos(step f_k), sin(step f_k)], f_k = max_period**(-k / n).

  k counts from 0 to n - 1 and n is half of `width`; step in [0, 999].
  """
  if width % 2:
    raise ValueError(f"width {width} of a sinusoid must be even")
  half = width // 2
  k = jnp.arange(half, dtype=step.dtype)
  angles = step[:, None] * jnp.exp(k * (-math.log(max_period) / half))[None, :]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class EmbeddingMLP(nn.Module):
  """Dense, activation, Dense."""

  features: int  # width of both layers
  activation: activations.Activation = "swish"
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self, x: Float[Array, "b d"]
  ) -> Float[Array, "b {self.features}"]:
    for i in range(2):
      x = nn.Dense(
        self.features,
        dtype=self.dtype,
        kernel_init=initializers.default,
        name=f"dense_{i}",
      )(activations.apply(self.activation, x) if i else x)
    return x
