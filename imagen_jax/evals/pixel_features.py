"""Features of small images that need no weights: whitened principal axes.

  f = (A(x) - mean) V / sqrt(variance)

A makes an image `side` pixels wide; mean, V and variance are those of a set of
real images, the `count` axes with the most variance. Unlike raw pixels they
give fine detail the weight of coarse layout, so blur shows; unlike Inception's
they know no objects. A distance of these says nothing next to a published one.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors, images

_CHUNK = 256  # images resized at a time


@dataclasses.dataclass(frozen=True, eq=False)
class PixelFeatures:
  """Images in [-1, 1] -> features [n d]; see `fit`."""

  side: int
  mean: Float[np.ndarray, "p"]
  axes: Float[np.ndarray, "p d"]  # of unit length, divided by the deviation

  def __call__(
    self, x: Float[np.ndarray, "n h w 3"]
  ) -> Float[np.ndarray, "n d"]:
    return (flatten(x, self.side) - self.mean) @ self.axes


def fit(
  real: Float[np.ndarray, "n h w 3"], *, side: int = 16, count: int = 256
) -> PixelFeatures:
  """The features of a set of real images, several times more than `count`.

  With few, the set they are of looks whiter than another sample of its kind.
  """
  if not 0 < count < min(len(real), 3 * side**2):
    raise errors.BadInput(
      f"{len(real)} real images {side} pixels wide do not give {count} axes;"
      " give more images than axes, and less axes than values of an image."
    )
  flat = flatten(real, side)
  mean = flat.mean(axis=0)
  centred = flat - mean
  wide = centred.shape[1] > len(real)
  # The smaller of the two products; the other has the same eigenvalues.
  product = centred @ centred.T if wide else centred.T @ centred
  squares, axes = np.linalg.eigh(product)
  squares, axes = squares[: -count - 1 : -1], axes[:, : -count - 1 : -1]
  if squares[-1] < 1e-9 * squares[0]:
    raise errors.BadInput(
      f"the real images vary along less than {count} axes; give other ones."
    )
  if wide:
    axes = centred.T @ axes / np.sqrt(squares)
  return PixelFeatures(side, mean, axes * np.sqrt((len(real) - 1) / squares))


def flatten(
  x: Float[np.ndarray, "n h w 3"], side: int
) -> Float[np.ndarray, "n p"]:
  """Antialiased to `side` pixels, in rows, float64."""
  if x.shape[1:3] != (side, side):
    parts = [
      np.asarray(images.resize_antialias(jnp.asarray(part), (side, side)))
      for part in np.split(x, range(_CHUNK, len(x), _CHUNK))
    ]
    x = np.concatenate(parts)
  return x.reshape(len(x), -1).astype(np.float64)
