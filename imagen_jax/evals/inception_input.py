"""uint8 images of any size -> what Inception reads, in three conventions.

How an image is made 299x299 moves FID by whole points (Parmar et al. 2022,
arXiv:2104.11222), so that a number says nothing without the convention:

  clean_fid       bicubic with antialiasing on float pixels, as clean-fid and
                  Pillow do; clipped to 0..255; (u - 128) / 128. The default.
  torch_fidelity  bilinear without antialiasing and without half-pixel centres,
                  as TensorFlow 1 did and torch-fidelity and the first FID code
                  do; (u - 128) / 128
  pytorch_fid     bilinear without antialiasing, half-pixel centres, as
                  pytorch-fid does; u / 127.5 - 1

All on the host and in float32 (bilinear weights in float64): the same pixels on
every machine. An image that is 299x299 is not changed by any.
"""

import functools
from typing import Literal, TypeAlias, get_args

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from imagen_jax.core import errors
from imagen_jax.models import inception

Convention: TypeAlias = Literal["clean_fid", "torch_fidelity", "pytorch_fid"]
CONVENTIONS = get_args(Convention)

_SIZE = inception.SIZE


def check(convention: str) -> None:
  """BadInput for a convention that there is not."""
  if convention not in CONVENTIONS:
    raise errors.BadInput(
      f"unknown resize convention {convention!r}; known are"
      f" {', '.join(CONVENTIONS)}."
    )


def prepare(
  pixels: UInt8[np.ndarray, "h w 3"], convention: Convention
) -> Float[np.ndarray, "299 299 3"]:
  """One image as the network reads it."""
  check(convention)
  if convention == "clean_fid":
    resized = _bicubic(pixels)
  else:
    resized = bilinear(
      pixels, (_SIZE, _SIZE), half_pixel=convention == "pytorch_fid"
    )
  return scaled(resized, convention)


def scaled(
  resized: Float[np.ndarray, "h w 3"], convention: Convention
) -> Float[np.ndarray, "h w 3"]:
  """0..255 -> about [-1, 1]."""
  if convention == "pytorch_fid":
    return resized / np.float32(127.5) - np.float32(1)
  return (resized - np.float32(128)) / np.float32(128)


def bilinear(
  pixels: UInt8[np.ndarray, "h w 3"],
  size: tuple[int, int],
  *,
  half_pixel: bool,
) -> Float[np.ndarray, "h2 w2 3"]:
  """Without antialiasing, by TensorFlow 1's grid or by half-pixel centres."""
  rows, columns = (
    _taps(old, new, half_pixel)
    for old, new in zip(pixels.shape[:2], size, strict=True)
  )
  x = pixels.astype(np.float32)
  x = _lerp(x, rows, axis=0)
  return _lerp(x, columns, axis=1)


@functools.lru_cache(maxsize=256)
def _taps(
  old: int, new: int, half_pixel: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(pixel before, pixel behind, weight of that behind) of each new pixel."""
  at = np.arange(new, dtype=np.float64)
  if half_pixel:
    at = np.clip((at + 0.5) * old / new - 0.5, 0, None)
  else:
    at = at * old / new
  before = np.minimum(np.floor(at).astype(np.int64), old - 1)
  behind = np.minimum(before + 1, old - 1)
  return before, behind, (at - before).astype(np.float32)


def _lerp(
  x: Float[np.ndarray, "h w 3"],
  taps: tuple[np.ndarray, np.ndarray, np.ndarray],
  *,
  axis: int,
) -> Float[np.ndarray, "h2 w2 3"]:
  before, behind, weight = taps
  weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
  low, high = np.take(x, before, axis), np.take(x, behind, axis)
  return low + (high - low) * weight


def _bicubic(
  pixels: UInt8[np.ndarray, "h w 3"],
) -> Float[np.ndarray, "299 299 3"]:
  """Pillow's, each channel by itself in float32."""
  channels = [
    np.asarray(
      PIL.Image.fromarray(
        np.ascontiguousarray(pixels[..., c], np.float32)
      ).resize((_SIZE, _SIZE), PIL.Image.Resampling.BICUBIC)
    )
    for c in range(3)
  ]
  return np.clip(np.stack(channels, axis=-1), 0, 255)
