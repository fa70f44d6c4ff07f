"""Reports as one HTML file: tables, notes and pictures, nothing from outside.

Every text is escaped here, so that a prompt or the name of a file cannot become
a part of the page. Pictures are in the file itself, as PNG.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image
from jaxtyping import UInt8

_LONG = 24  # letters of a word that may be broken: a digest, a path
_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 60rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #ddd; }
td.long { overflow-wrap: anywhere; min-width: 10rem; }
td.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
@media (max-width: 30rem) {
  table { font-size: .85rem; } th, td { padding-right: .5rem; } }
img { max-width: 100%; height: auto; image-rendering: auto; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
"""


def page(title: str, parts: Iterable[str]) -> str:
  """A whole document of parts that the functions below have made."""
  body = "\n".join(parts)
  name = html.escape(title)
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{name}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
    f"<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
  )


def heading(text: str) -> str:
  """The title of a section."""
  return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
  """Plain text."""
  return f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
  """Numbers stand to the right, texts to the left."""
  top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
  lines = "\n".join(
    f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows
  )
  return f'<div class="wide"><table>\n<tr>{top}</tr>\n{lines}\n</table></div>'


def picture(pixels: UInt8[np.ndarray, "h w 3"], caption: str) -> str:
  """An image with what it shows below it."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png")
  data = base64.b64encode(buffer.getvalue()).decode()
  text = html.escape(caption)
  return (
    f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
    f"<figcaption>{text}</figcaption></figure>"
  )


def _cell(value: str | float) -> str:
  if isinstance(value, str):
    long = any(len(word) > _LONG for word in value.split())
    kind = ' class="long"' if long else ""
    return f"<td{kind}>{html.escape(value)}</td>"
  return f'<td class="number">{value:.5g}</td>'
