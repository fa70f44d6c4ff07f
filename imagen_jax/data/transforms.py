"""Host numpy on pixels: decode, premultiply, make smaller, paste.

An RGBA image is kept premultiplied: P = alpha * RGB. Pasting it on a colour B
is then C = P + (1 - alpha) * B. An antialiased downscale D is linear and its
weights sum to one, so for a background of one colour

  D(C) = D(P) + (1 - D(alpha)) * B :

the downscale is made once for each object and is exact for all colours, up to
the rounding of P, alpha and C to 8 bits. Colour outside the object (RGB where
alpha is 0) cannot leak in, as it would if RGB were averaged on its own.
"""

import io

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.core import errors

Rgba = UInt8[np.ndarray, "h w 4"]


def decode(encoded: bytes, what: str) -> Rgba:
  """An encoded image -> premultiplied RGBA; DataError names `what`."""
  try:
    # Pillow hands some other formats to programs, as PostScript to gs.
    with PIL.Image.open(io.BytesIO(encoded), formats=("WEBP", "PNG")) as image:
      return np.asarray(image.convert("RGBA").convert("RGBa"))
  except (OSError, ValueError, SyntaxError) as error:
    raise errors.DataError(
      f"the image of {what} cannot be decoded ({error}); its shard is damaged."
    ) from error


def downscale(rgba: Rgba, size: int) -> UInt8[np.ndarray, "{size} {size} 4"]:
  """Antialiased bilinear: a triangle filter as wide as the step.

  Takes premultiplied pixels. The weights are positive, so P <= alpha stays.
  """
  height, width, _ = rgba.shape
  if (height, width) == (size, size):
    return rgba
  if size > min(height, width):
    raise errors.BadInput(
      f"resolution {size} is more than the {height}x{width} that is stored; use"
      f" {min(height, width)} or less."
    )
  image = PIL.Image.frombuffer(
    "RGBa", (width, height), np.ascontiguousarray(rgba), "raw", "RGBa", 0, 1
  )
  return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))


def paste(
  rgba: UInt8[np.ndarray, "b h w 4"], colour: UInt8[np.ndarray, "b 3"]
) -> UInt8[np.ndarray, "b h w 3"]:
  """C = P + round((1 - alpha) * B); where alpha is 0, exactly B.

  The four bytes of a pixel are added as one 32-bit number: P <= alpha and the
  rest <= 255 - alpha, so that no byte carries into the next.
  """
  # What is left of each colour for each of the 256 values of alpha.
  left = (255 - np.arange(256, dtype=np.uint32))[None, :, None]
  rest = np.zeros((len(colour), 256, 4), np.uint8)
  rest[..., :3] = (left * colour[:, None, :].astype(np.uint32) + 127) // 255
  rest = rest.view(np.uint32)[..., 0]
  alpha = rgba[..., 3]
  pixels = np.ascontiguousarray(rgba).view(np.uint32)[..., 0]
  pasted = np.empty_like(pixels)
  for i in range(len(pixels)):
    np.add(pixels[i], rest[i].take(alpha[i]), out=pasted[i])
  return pasted.view(np.uint8).reshape(rgba.shape)[..., :3]
