"""Contact sheets: one row of images a caption, the caption drawn above it.

Captions with one image each stand side by side, four to a row.

  rows of [n h w 3] uint8, and their captions -> [H W 3] uint8

The font is the one that Pillow carries. It has Latin letters only, so others
are drawn as "?"; file metadata, not the sheet, is where a caption is kept.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import UInt8

from imagen_jax.core import errors

# As files of it are called, which lie beside images and are none of them.
NAME = "contact_sheet.png"
_INK, _PAPER = (40, 40, 40), (255, 255, 255)
_MAX_LINES = 3  # of a caption
_MIN_WIDTH = 192  # pixels, so that a caption has room above small images
_COLUMNS = 4  # of captions with one image each

Pixels: TypeAlias = UInt8[np.ndarray, "_ _ _ 3"]  # n h w 3, by row
Font: TypeAlias = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


def labelled(
  rows: Sequence[Pixels],
  captions: Sequence[str],
  *,
  gap: int = 4,
  font_size: int = 13,
) -> UInt8[np.ndarray, "H W 3"]:
  """All rows, each under its caption, which is wrapped and cut."""
  if not rows or len(rows) != len(captions):
    raise errors.BadInput(
      f"{len(rows)} rows and {len(captions)} captions; give as many of one as"
      " of the other, and at least one."
    )
  widest = max(n * (w + gap) for n, _, w, _ in (row.shape for row in rows))
  width = max(widest + gap, _MIN_WIDTH)
  font = _font(font_size)
  strips = [
    _strip(row, wrap(caption, font, width - 2 * gap), font, width, gap)
    for row, caption in zip(rows, captions, strict=True)
  ]
  columns = 1 if any(len(row) > 1 for row in rows) else _COLUMNS
  return np.concatenate(
    [
      _side_by_side(strips[i : i + columns], min(columns, len(strips)))
      for i in range(0, len(strips), columns)
    ]
  )


def _side_by_side(
  strips: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int
) -> UInt8[np.ndarray, "H W 3"]:
  """Strips of one width beside each other, filled up with paper."""
  height, width = max(map(len, strips)), strips[0].shape[1]
  sheet = np.full((height, columns * width, 3), _PAPER, np.uint8)
  for i, strip in enumerate(strips):
    top = height - len(strip)  # images in line, captions of any length above
    sheet[top:, i * width : (i + 1) * width] = strip
  return sheet


def wrap(caption: str, font: Font, width: int) -> list[str]:
  """The caption in lines of at most `width` pixels; the last may be cut."""
  words = _drawable(caption).split() or ["(no prompt)"]
  lines = [""]
  for word in words:
    longer = f"{lines[-1]} {word}".strip()
    if lines[-1] and font.getlength(longer) > width:
      lines.append(word)
    else:
      lines[-1] = longer
  kept = [_fit(line, font, width) for line in lines[:_MAX_LINES]]
  if len(lines) > _MAX_LINES:
    kept[-1] = _fit(kept[-1] + " ...", font, width)
  return kept


def _fit(line: str, font: Font, width: int) -> str:
  """The line, or as much of it as fits with dots behind."""
  if font.getlength(line) <= width:
    return line
  while line and font.getlength(line + "...") > width:
    line = line[:-1]
  return line + "..."


def _strip(
  row: Pixels,
  lines: list[str],
  font: Font,
  width: int,
  gap: int,
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """One caption and the images under it."""
  n, h, w, _ = row.shape
  line_height = _line_height(font)
  top = gap + line_height * len(lines) + gap
  paper = PIL.Image.new("RGB", (width, top + h + gap), _PAPER)
  draw = PIL.ImageDraw.Draw(paper)
  for i, line in enumerate(lines):
    draw.text((gap, gap + i * line_height), line, fill=_INK, font=font)
  strip = np.array(paper)
  for i in range(n):
    left = gap + i * (w + gap)
    strip[top : top + h, left : left + w] = row[i]
  return strip


def _font(size: int) -> Font:
  """Pillow's own font: scalable if Pillow was built with FreeType."""
  try:
    return PIL.ImageFont.load_default(size)
  except (OSError, ImportError, TypeError):
    return PIL.ImageFont.load_default()


def _line_height(font: Font) -> int:
  return int(font.getbbox("Agjq|")[3]) + 3


def _drawable(text: str) -> str:
  return text.encode("latin-1", "replace").decode("latin-1")
