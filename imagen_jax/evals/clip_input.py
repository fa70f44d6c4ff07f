"""uint8 images of any size -> what CLIP reads, as its own processor does.

The shorter side is made `size` by bicubic with antialiasing on uint8 pixels,
the longer in proportion (rounded down); the middle is cut out; then
(u / 255 - mean) / deviation by channel. Radford et al. 2021, and Pillow's
resize, which is pinned here as the antialiased one.
"""

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def prepare(
  pixels: UInt8[np.ndarray, "h w 3"], size: int
) -> Float[np.ndarray, "{size} {size} 3"]:
  """One image as the network reads it."""
  height, width, _ = pixels.shape
  short = min(height, width)
  new = (size * width // short, size * height // short)
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
  image = image.resize(new, PIL.Image.Resampling.BICUBIC)
  left, top = (new[0] - size) // 2, (new[1] - size) // 2
  x = np.asarray(image.crop((left, top, left + size, top + size)))
  return (x.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION
