"""What every reader of images yields: a file, its captions, or what is wrong.

Captions are kept as they are, to the letter, so that an embedding store that
`imagen embed` makes of the same files has them. Those of white space alone are
none.
"""

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import UInt8

# Of images as files; what is in them decides, not how they are called.
EXTENSIONS = frozenset(
  ("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
)
# No image of `decode.MAX_PIXELS` takes more, even without compression.
MAX_BYTES = 1 << 28


class Item(NamedTuple):
  """One image of a source; with a `problem` it has no use."""

  key: str
  image: bytes = b""
  captions: tuple[str, ...] = ()
  problem: str = ""  # "no image", "file too large" or "bad caption"
  detail: str = ""


def too_large(key: str, size: int) -> Item:
  """The item of a file that is not even read."""
  return Item(key, problem="file too large", detail=f"{size:,} bytes")


def png(pixels: UInt8[np.ndarray, "h w *c"]) -> bytes:
  """The file of pixels that came without one; nothing is lost."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png")
  return buffer.getvalue()


def given(texts: Iterable[str | None]) -> tuple[str, ...]:
  """The captions that say something."""
  return tuple(text for text in texts if text and text.strip())
