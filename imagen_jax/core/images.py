"""Pixels: uint8 on disk, [-1, 1] in memory; resizing, grids and PNG files.

The only place where the two ranges meet: x = u / 127.5 - 1 and
u = round((x + 1) * 127.5).
"""

import io
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from jaxtyping import Array, Float, UInt8

from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Image


def from_uint8(
  pixels: UInt8[Array, "*b h w c"] | UInt8[np.ndarray, "*b h w c"],
) -> Float[Array, "*b h w c"] | Float[np.ndarray, "*b h w c"]:
  """uint8 in 0..255 -> float32 in [-1, 1]; numpy stays numpy."""
  return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(
  x: Float[Array, "*b h w c"] | Float[np.ndarray, "*b h w c"],
) -> UInt8[np.ndarray, "*b h w c"]:
  """[-1, 1] -> uint8 on the host, clipped and rounded to the nearest."""
  x = np.asarray(x, np.float32)
  return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


def resize_antialias(
  x: Image, size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
  """Bilinear with a filter as wide as the step: for making things smaller."""
  shape = (x.shape[0], *size, x.shape[3])
  return jax.image.resize(x, shape, "bilinear", antialias=True)


def upsample_bilinear(
  x: Image, size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
  """Bilinear, half-pixel centres, in at least float32."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  shape = (x.shape[0], *size, x.shape[3])
  return jax.image.resize(wide, shape, "bilinear", antialias=False)


def upsample_corners(
  x: Image, size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
  """Bilinear, the corners' centres kept in place, in at least float32.

  Row i of h2 is at i (h - 1) / (h2 - 1) of h; "align corners" elsewhere.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  for axis, length in zip((1, 2), size, strict=True):
    if length == x.shape[axis]:
      continue
    last = x.shape[axis] - 1
    position = np.linspace(0.0, last, length)
    low = np.minimum(np.floor(position).astype(int), max(last - 1, 0))
    share = [1, 1, 1, 1]
    share[axis] = length
    share = jnp.asarray((position - low).reshape(share), wide.dtype)
    below = jnp.take(wide, low, axis=axis)
    above = jnp.take(wide, np.minimum(low + 1, last), axis=axis)
    wide = below + (above - below) * share
  return wide


def grid(
  pixels: UInt8[np.ndarray, "n h w c"], columns: int, *, gap: int = 2
) -> UInt8[np.ndarray, "H W c"]:
  """Images in rows of `columns`, on white, `gap` pixels apart."""
  n, h, w, c = pixels.shape
  rows = -(-n // columns)
  shape = (rows * (h + gap) + gap, columns * (w + gap) + gap, c)
  sheet = np.full(shape, 255, np.uint8)
  for i in range(n):
    top = gap + (i // columns) * (h + gap)
    left = gap + (i % columns) * (w + gap)
    sheet[top : top + h, left : left + w] = pixels[i]
  return sheet


def write_png(
  path: files.PathLike,
  pixels: UInt8[np.ndarray, "h w 3"],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes an RGB PNG atomically; `metadata` becomes text chunks."""
  info = PIL.PngImagePlugin.PngInfo()
  for name, text in (metadata or {}).items():
    info.add_itxt(name, text) if not text.isascii() else info.add_text(
      name, text
    )
  buffer = io.BytesIO()
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
  image.save(buffer, "png", pnginfo=info)
  files.atomic_write(path, buffer.getvalue())


def read_png(
  path: files.PathLike,
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, str]]:
  """The RGB pixels and the text chunks of an image file."""
  try:
    # Of other formats Pillow hands some to programs, as PostScript to gs.
    with PIL.Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
      image.load()
      text = {k: str(v) for k, v in getattr(image, "text", {}).items()}
      return np.asarray(image.convert("RGB")), text
  # Its readers raise whatever damage happens to lead to: OSError, SyntaxError,
  # ValueError, struct.error and more.
  except Exception as error:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise errors.BadInput(
      f"cannot read {str(path)!r} as an image ({reason}); give a PNG, JPEG or"
      " WebP file."
    ) from error
