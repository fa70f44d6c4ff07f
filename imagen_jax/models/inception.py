r"""InceptionV3 as FID has it: the network of 2015-12-05, not torchvision's.

Szegedy et al. 2015, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500,
take the 2048 means of its last grid as features. Pixels come as 299x299 in
[-1, 1] as evals/inception_input makes them:

  [b 299 299 3] -> stem [b 35 35 192] -> 5b 5c 5d [b 35 35 288]
                -> 6a .. 6e [b 17 17 768] -> 7a 7b 7c [b 8 8 2048] -> mean

It differs from torchvision's network in its averages, which leave out the zeros
around the image; in a maximum in place of the average in 7c; and in its 1008
classes. A unit is relu(norm(conv(x))), the norm by stored mean and variance:

  y = scale (x - mean) / sqrt(var + 1e-3) + bias

which is folded into the kernel: one multiplication of 22 M weights a call.
Convolutions ask for full precision: 5e-4 of TensorFloat-32 would move FID.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from imagen_jax.core.arrays import Image

SIZE = 299  # pixels a side
FEATURES = 2048
CLASSES = 1008
_EPS = 1e-3
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Grid: TypeAlias = Float[Array, "b _ _ _"]
# (name, features, (kernel height, width), stride)
Unit: TypeAlias = tuple[str, int, tuple[int, int], int]


class Output(NamedTuple):
  """Means over the grid at four depths, and the classes where there are any."""

  pool_64: Float[Array, "b 64"]
  pool_192: Float[Array, "b 192"]
  pool_768: Float[Array, "b 768"]
  pool_2048: Float[Array, "b 2048"]
  logits: Float[Array, "b n"] | None
  # As Inception score takes them: without the bias, as its first code did.
  logits_unbiased: Float[Array, "b n"] | None


class InceptionV3(nn.Module):
  """299x299 pixels in [-1, 1] -> means at four depths, and logits."""

  classes: int = CLASSES  # 0 where the weights have no classifier
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b 299 299 3"]) -> Output:
    x = x.astype(self.dtype)
    x = self._unit(x, "conv_1a", 32, stride=2, padding="VALID")
    x = self._unit(x, "conv_2a", 32, padding="VALID")
    x = self._unit(x, "conv_2b", 64)
    x = pool_64 = highest(x, stride=2)
    x = self._unit(x, "conv_3b", 80, (1, 1))
    x = self._unit(x, "conv_4a", 192, padding="VALID")
    x = pool_192 = highest(x, stride=2)
    x = self._a(x, "5b", pool=32)
    x = self._a(x, "5c", pool=64)
    x = self._a(x, "5d", pool=64)
    x = self._reduce(
      x,
      "6a",
      [("branch3x3", 384, (3, 3), 2)],
      [
        ("branch3x3dbl_1", 64, (1, 1), 1),
        ("branch3x3dbl_2", 96, (3, 3), 1),
        ("branch3x3dbl_3", 96, (3, 3), 2),
      ],
    )
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
      x = self._c(x, name, width)
    pool_768 = x
    x = self._reduce(
      x,
      "7a",
      [("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)],
      [
        ("branch7x7x3_1", 192, (1, 1), 1),
        ("branch7x7x3_2", 192, (1, 7), 1),
        ("branch7x7x3_3", 192, (7, 1), 1),
        ("branch7x7x3_4", 192, (3, 3), 2),
      ],
    )
    x = self._e(x, "7b", largest=False)
    x = self._e(x, "7c", largest=True)
    means = [y.mean(axis=(1, 2)) for y in (pool_64, pool_192, pool_768, x)]
    return Output(*means, *self._classify(means[-1]))

  def _unit(
    self,
    x: Image,
    name: str,
    features: int,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    padding: str = "SAME",
  ) -> Grid:
    unit = ConvNorm(features, kernel, stride, padding, self.dtype, name=name)
    return unit(x)

  def _row(self, x: Image, block: str, units: list[Unit]) -> Grid:
    """Units one after the other; those with a stride see no zeros around."""
    for name, features, kernel, stride in units:
      padding = "VALID" if stride > 1 else "SAME"
      name = f"mixed_{block}_{name}"
      x = self._unit(x, name, features, kernel, stride, padding)
    return x

  def _a(self, x: Image, block: str, pool: int) -> Grid:
    rows = (
      [("branch1x1", 64, (1, 1), 1)],
      [("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)],
      [
        ("branch3x3dbl_1", 64, (1, 1), 1),
        ("branch3x3dbl_2", 96, (3, 3), 1),
        ("branch3x3dbl_3", 96, (3, 3), 1),
      ],
    )
    parts = [self._row(x, block, units) for units in rows]
    parts += [self._row(average(x), block, [("branch_pool", pool, (1, 1), 1)])]
    return jnp.concatenate(parts, axis=-1)

  def _reduce(self, x: Image, block: str, *rows: list[Unit]) -> Grid:
    parts = [self._row(x, block, units) for units in rows]
    parts += [highest(x, stride=2)]
    return jnp.concatenate(parts, axis=-1)

  def _c(self, x: Image, block: str, width: int) -> Grid:
    rows = (
      [("branch1x1", 192, (1, 1), 1)],
      [
        ("branch7x7_1", width, (1, 1), 1),
        ("branch7x7_2", width, (1, 7), 1),
        ("branch7x7_3", 192, (7, 1), 1),
      ],
      [
        ("branch7x7dbl_1", width, (1, 1), 1),
        ("branch7x7dbl_2", width, (7, 1), 1),
        ("branch7x7dbl_3", width, (1, 7), 1),
        ("branch7x7dbl_4", width, (7, 1), 1),
        ("branch7x7dbl_5", 192, (1, 7), 1),
      ],
    )
    parts = [self._row(x, block, units) for units in rows]
    parts += [self._row(average(x), block, [("branch_pool", 192, (1, 1), 1)])]
    return jnp.concatenate(parts, axis=-1)

  def _e(self, x: Image, block: str, *, largest: bool) -> Grid:
    def fork(y: Image, name: str) -> list[Grid]:
      return [
        self._row(y, block, [(f"{name}a", 384, (1, 3), 1)]),
        self._row(y, block, [(f"{name}b", 384, (3, 1), 1)]),
      ]

    one = self._row(x, block, [("branch3x3_1", 384, (1, 1), 1)])
    two = self._row(
      x,
      block,
      [("branch3x3dbl_1", 448, (1, 1), 1), ("branch3x3dbl_2", 384, (3, 3), 1)],
    )
    pooled = highest(x, padding=1) if largest else average(x)
    parts = [self._row(x, block, [("branch1x1", 320, (1, 1), 1)])]
    parts += fork(one, "branch3x3_2") + fork(two, "branch3x3dbl_3")
    parts += [self._row(pooled, block, [("branch_pool", 192, (1, 1), 1)])]
    return jnp.concatenate(parts, axis=-1)

  def _classify(
    self, features: Float[Array, "b 2048"]
  ) -> tuple[Float[Array, "b n"] | None, Float[Array, "b n"] | None]:
    if not self.classes:
      return None, None
    shape = (FEATURES, self.classes)
    init = nn.initializers.lecun_normal()
    kernel = self.param("fc_kernel", init, shape).astype(self.dtype)
    bias = self.param("fc_bias", nn.initializers.zeros, (self.classes,))
    unbiased = jnp.matmul(features, kernel, precision=lax.Precision.HIGHEST)
    return unbiased + bias.astype(self.dtype)[None], unbiased


class ConvNorm(nn.Module):
  """relu(norm(conv(x))), the norm folded into the kernel."""

  features: int
  kernel_size: tuple[int, int]
  stride: int
  padding: str
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Image) -> Grid:
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    parts = [
      self.param(name, init, (self.features,))
      for name, init in (
        ("scale", nn.initializers.ones),
        ("bias", nn.initializers.zeros),
        ("mean", nn.initializers.zeros),
        ("var", nn.initializers.ones),
      )
    ]
    scale, bias, mean, var = (part.astype(self.dtype) for part in parts)
    factor = scale * lax.rsqrt(var + jnp.asarray(_EPS, self.dtype))
    y = lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype) * factor[None, None, None],
      (self.stride, self.stride),
      self.padding,
      dimension_numbers=_LAYOUT,
      precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(y + (bias - mean * factor)[None, None, None])


def average(x: Image) -> Image:
  """Means over 3x3 neighbours, of those that are in the image."""
  inside = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
  total, count = (_window(y, jnp.add, padding=1) for y in (x, inside))
  return total / count


def highest(x: Image, *, stride: int = 1, padding: int = 0) -> Grid:
  """Maxima over 3x3 neighbours."""
  return _window(x, jnp.maximum, stride=stride, padding=padding, fill=-jnp.inf)


def _window(
  x: Grid,
  combine: Callable[[Grid, Grid], Grid],
  *,
  stride: int = 1,
  padding: int,
  fill: float = 0.0,
) -> Grid:
  """Combines 3 neighbours down, then across, as images that are shifted.

  XLA's windows read each number nine times, and on a CPU one by one.
  """
  edge = (padding, padding)
  x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=fill)
  for axis in (1, 2):
    end = x.shape[axis] - 2
    x = functools.reduce(
      combine,
      [
        lax.slice_in_dim(x, start, start + end, stride, axis)
        for start in range(3)
      ],
    )
  return x
