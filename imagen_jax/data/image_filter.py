"""Judges one item of a source: an example of the set, or why it is none.

An image that is not resized is stored byte for byte, once all of it has been
decoded. One that is resized is written anew, upright and in RGB: PNG as PNG,
everything else as JPEG of quality 95 with full colour resolution.
"""

import dataclasses
import io
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.data import decode, examples, image_item

FILTERS = ("too small", "duplicate")  # reasons that are no fault of a record


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the content of a set, beside its source."""

  min_size: int = 64  # of the shorter side, in pixels
  max_pixels: int = decode.MAX_PIXELS
  resize: int | None = None  # to this shorter side; never upwards
  dedup: bool = False  # leave out files that are the same to the byte


class Judged(NamedTuple):
  """An example, or a reason."""

  key: str
  example: examples.Example | None
  identity: bytes = b""  # the digest of the file as it came
  reason: str = ""
  detail: str = ""


def judge(item: image_item.Item, settings: Settings) -> Judged:
  """Pure, and thus the same in any thread."""

  def skipped(reason: str, detail: str) -> Judged:
    return Judged(item.key, None, reason=reason, detail=detail)

  if item.problem:
    return skipped(item.problem, item.detail)
  if not item.captions:
    return skipped("no caption", "")
  try:
    found = _fitted(item.image, settings)
  except decode.Skip as skip:
    return skipped(skip.reason, skip.detail)
  if min(found.width, found.height) < settings.min_size:
    return skipped("too small", f"{found.width}x{found.height}")
  extra = {"width": found.width, "height": found.height}
  if len(item.captions) > 1:
    extra["captions"] = list(item.captions)
  return Judged(
    item.key,
    examples.Example(item.key, item.captions[0], found.data, extra),
    examples.digest(item.image),
  )


def duplicate(judged: Judged, *, of: str) -> Judged:
  """The same image once more is no example."""
  return Judged(judged.key, None, reason="duplicate", detail=f"of {of}")


class _Fitted(NamedTuple):
  width: int
  height: int
  data: bytes


def _fitted(data: bytes, settings: Settings) -> _Fitted:
  """The file as it is, or smaller; Skip if it cannot be decoded."""
  side = settings.resize
  if side is None:
    return _Fitted(*decode.size(data, max_pixels=settings.max_pixels), data)
  pixels = decode.decode(data, max_pixels=settings.max_pixels)
  height, width, _ = pixels.shape
  if not settings.min_size <= min(width, height) > side:
    return _Fitted(width, height, data)
  scale = side / min(width, height)
  size = (max(side, round(width * scale)), max(side, round(height * scale)))
  return _Fitted(*size, _smaller(pixels, size, decode.name_of_format(data)))


def _smaller(
  pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], kind: str | None
) -> bytes:
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
  # Pillow's filters grow with the step, and so leave no aliases.
  image = image.resize(size, PIL.Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  if kind == "PNG":
    image.save(buffer, "png")
  else:
    image.save(buffer, "jpeg", quality=95, subsampling=0)
  return buffer.getvalue()
