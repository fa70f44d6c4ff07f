"""Explicit broadcasting and the checks of sizes."""

from jaxtyping import Array, Float

from imagen_jax.core import errors


def bcast_right(x: Array, ndim: int) -> Array:
  """Appends axes of length 1 until `x` has `ndim` axes: [b] -> [b, 1, 1, 1]."""
  if x.ndim > ndim:
    raise ValueError(f"an array of {x.ndim} axes cannot have {ndim} axes")
  return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def mean_flat(x: Float[Array, "b ..."]) -> Float[Array, "b"]:
  """Mean over all axes but the first."""
  return x.mean(axis=tuple(range(1, x.ndim)))


def check_divisible(size: int, by: int, what: str) -> None:
  """Raises BadInput, naming both numbers and the sizes beside, if not."""
  if by > 0 and size > 0 and size % by == 0:
    return
  below = size // by * by if by > 0 else 0
  near = f"{below} or {below + by}" if below > 0 else f"{by}"
  raise errors.BadInput(f"{what} {size} is not divisible by {by}; use {near}.")
