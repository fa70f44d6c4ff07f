"""Image files from anywhere to RGB pixels, or a reason to skip them.

The size is read from the header and refused above `max_pixels` before a pixel
is decoded: a PNG of 10 KB may otherwise take a gigabyte. Only JPEG, PNG and
WebP files are opened, each by its first bytes and by its own reader of Pillow.

  orientation   of EXIF is applied
  transparency  is laid on white
  16-bit grey   keeps its upper 8 bits; CMYK, palette and grey become RGB
  animations    are refused; of a JPEG with several pictures the first is taken
  colour        profiles are not applied
"""

import io
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.WebPImagePlugin
from jaxtyping import UInt8

MAX_PIXELS = 28_000_000
# What JPEG can have. Pillow spends a pointer on each row, so that 1x32000000
# pixels would take three times the memory of a square.
MAX_SIDE = 65_535
FORMATS = ("JPEG", "PNG", "WEBP")

# Why an image is skipped.
Reason: TypeAlias = Literal[
  "not a JPEG, PNG or WebP file", "too many pixels", "animated", "damaged"
]
REASONS = get_args(Reason)

_STRIP = 1 << 18  # pixels that are converted together
_ORIENTATION = 0x0112  # the tag of EXIF
# What turns an image upright, by its EXIF orientation, as (transpose, flip
# rows, flip columns): views, which take no memory.
_UPRIGHT = {
  2: (False, False, True),
  3: (False, True, True),
  4: (False, True, False),
  5: (True, False, False),
  6: (True, False, True),
  7: (True, True, True),
  8: (True, True, False),
}


class Skip(Exception):
  """The image cannot be used; `reason` is one of REASONS."""

  def __init__(self, reason: Reason, detail: str = ""):
    super().__init__(f"{reason} ({detail})" if detail else reason)
    self.reason, self.detail = reason, detail


def size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
  """Width and height of the upright image, once all of it can be decoded."""
  with _loaded(data, max_pixels) as image:
    width, height = image.size
    swapped = _UPRIGHT.get(_orientation(image), (False,))[0]
  return (height, width) if swapped else (width, height)


def decode(
  data: bytes, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
  """The upright image in RGB, or Skip; it may be a view with odd strides.

  At its peak this takes 7 bytes a pixel: 4 of Pillow's and 3 of the result.
  """
  with _loaded(data, max_pixels) as image:
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
      strip = image.crop((0, top, width, min(top + rows, height)))
      pixels[top : top + rows] = _rgb(strip)
    return _upright(pixels, _orientation(image))


def name_of_format(data: bytes) -> str | None:
  """One of FORMATS by the first bytes, or None."""
  if data.startswith(b"\xff\xd8\xff"):
    return "JPEG"
  if data.startswith(b"\x89PNG\r\n\x1a\n"):
    return "PNG"
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
    return "WEBP"
  return None


def _loaded(data: bytes, max_pixels: int) -> PIL.Image.Image:
  """The decoded image as Pillow has it."""
  opener = _OPENERS.get(name_of_format(data))
  if opener is None:
    raise Skip("not a JPEG, PNG or WebP file", f"it begins with {data[:8]!r}")
  try:
    # Not by PIL.Image.open, which warns of large images, as it may well do,
    # and tries a dozen of formats.
    image = opener(io.BytesIO(data))
    width, height = image.size
    if width * height < 1:
      raise Skip("damaged", f"{width}x{height} pixels")
    if width * height > max_pixels:
      raise Skip("too many pixels", f"{width}x{height}, over {max_pixels:,}")
    if max(width, height) > MAX_SIDE:
      raise Skip("too many pixels", f"{width}x{height}, over {MAX_SIDE} a side")
    if getattr(image, "is_animated", False):
      raise Skip("animated", f"{image.n_frames} frames")
    image.load()
    return image
  except Skip:
    raise
  # Its readers raise whatever damage happens to lead to: OSError, SyntaxError,
  # ValueError, struct.error, IndexError, MemoryError and more.
  except Exception as error:
    raise Skip("damaged", f"{type(error).__name__}: {error}"[:200]) from error


_OPENERS: dict[str | None, Callable[[io.BytesIO], PIL.ImageFile.ImageFile]] = {
  "JPEG": PIL.JpegImagePlugin.JpegImageFile,
  "PNG": PIL.PngImagePlugin.PngImageFile,
  "WEBP": PIL.WebPImagePlugin.WebPImageFile,
}


def _rgb(strip: PIL.Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """Any mode of the three formats -> RGB."""
  if strip.mode.startswith("I"):  # grey of 16 bits; in Pillow 11 also "I"
    grey = (np.asarray(strip).astype(np.uint32) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
  if strip.mode in ("RGBA", "LA", "PA") or "transparency" in strip.info:
    paper = PIL.Image.new("RGBA", strip.size, "white")
    strip = PIL.Image.alpha_composite(paper, strip.convert("RGBA"))
  return np.asarray(strip.convert("RGB"))


def _orientation(image: PIL.Image.Image) -> int:
  """What EXIF says of the way up, 1 where it says nothing."""
  try:
    found = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # EXIF is often damaged; the pixels are not
    return 1
  return found if isinstance(found, int) else 1


def _upright(
  pixels: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
  transpose, rows, columns = _UPRIGHT.get(orientation, (False, False, False))
  if transpose:
    pixels = pixels.transpose(1, 0, 2)
  return pixels[:: -1 if rows else 1, :: -1 if columns else 1]
