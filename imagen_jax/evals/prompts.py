"""Prompts with categories: DrawBench, PartiPrompts, plain text, the paper's.

  .csv .tsv  a header that names a column "prompt" or "prompts" ("caption" and
             "text" do too), and perhaps "category"
  .txt       a prompt a line

DrawBench's released table is such a .csv of 200 prompts in eleven categories
(Appendix C); PartiPrompts' is a .tsv. Any other ending is read as .txt.
"""

import collections
import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from imagen_jax.core import errors, files

# Category -> number of prompts in the released table.
DRAWBENCH = {
  "Colors": 25,
  "Conflicting": 10,
  "Counting": 19,
  "DALL-E": 20,
  "Descriptions": 20,
  "Gary Marcus et al.": 10,
  "Misspellings": 10,
  "Positional": 20,
  "Rare Words": 7,
  "Reddit": 38,
  "Text": 21,
}

BUILT_IN = "paper"

# Captions of images in the paper's first figure and of its project page.
_PAPER = (
  "A brain riding a rocketship heading towards the moon.",
  "A dragon fruit wearing karate belt in the snow.",
  "A small cactus wearing a straw hat and neon sunglasses in the Sahara"
  " desert.",
  "A photo of a Corgi dog riding a bike in Times Square. It is wearing"
  " sunglasses and a beach hat.",
  "Teddy bears swimming at the Olympics 400m Butterfly event.",
  "Sprouts in the shape of text 'Imagen' coming out of a fairytale book.",
  "A transparent sculpture of a duck made out of glass. The sculpture is in"
  " front of a painting of a landscape.",
  "A single beam of light enter the room from the ceiling. The beam of light"
  " is illuminating an easel. On the easel there is a Rembrandt painting of a"
  " raccoon.",
  "A blue jay standing on a large basket of rainbow macarons.",
  "A giant cobra snake on a farm. The snake is made out of corn.",
)

_TEXT_COLUMNS = ("prompt", "prompts", "caption", "text")
_CATEGORY_COLUMNS = ("category", "categories")
_MAX_BYTES = 64 << 20


class Prompt(NamedTuple):
  """A text, and the category that it is reported under; "" for none."""

  text: str
  category: str = ""


def read(name: str) -> list[Prompt]:
  """The prompts of a file, each text once; `BUILT_IN` names our own."""
  if name == BUILT_IN:
    return [Prompt(text, "Imagen figures") for text in _PAPER]
  text = _read_text(name)
  ending = pathlib.Path(name).suffix.lower()
  if ending in (".csv", ".tsv"):
    found = _table(name, text, "," if ending == ".csv" else "\t")
  else:
    found = [Prompt(clean(line)) for line in text.splitlines()]
  found = [prompt for prompt in found if prompt.text]
  if not found:
    raise errors.BadInput(f"{name} holds no prompt; write one a line.")
  first: dict[str, Prompt] = {}
  for prompt in found:
    first.setdefault(prompt.text, prompt)
  if len(first) < len(found):
    logging.info("%d prompts were given twice.", len(found) - len(first))
  _compare_drawbench(found)
  return list(first.values())


def clean(prompt: str) -> str:
  """One line of valid Unicode, without control characters."""
  text = prompt.encode("utf-8", "replace").decode("utf-8")
  return " ".join("".join(c if c >= " " else " " for c in text).split())


def _read_text(name: str) -> str:
  try:
    path = pathlib.Path(name)
    if path.stat().st_size > _MAX_BYTES:
      raise errors.BadInput(
        f"{name} has {files.size_text(path.stat().st_size)}; a list of prompts"
        f" may have {files.size_text(_MAX_BYTES)}."
      )
    return path.read_text(encoding="utf-8-sig")
  except OSError as error:
    raise errors.BadInput(
      f"cannot read prompts from {name!r} ({error.strerror}); give a .csv, .tsv"
      f" or .txt file, or {BUILT_IN!r} for the prompts that are built in."
    ) from error
  except UnicodeDecodeError as error:
    raise errors.BadInput(
      f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8."
    ) from error


def _table(name: str, text: str, separator: str) -> list[Prompt]:
  # A tab-separated table has no quotes: PartiPrompts holds bare ones.
  quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
  reader = csv.reader(
    io.StringIO(text, newline=""), delimiter=separator, quoting=quoting
  )
  try:
    header, *rows = [row for row in reader if row] or [[]]
  except csv.Error as error:
    raise errors.BadInput(
      f"line {reader.line_num} of {name} is no row of a table ({error})."
    ) from error
  prompt = _column(header, _TEXT_COLUMNS)
  category = _column(header, _CATEGORY_COLUMNS)
  if prompt is None:
    raise errors.BadInput(
      f"{name} has no column of prompts among {', '.join(header) or 'none'};"
      f" name one {' or '.join(_TEXT_COLUMNS)} in the first line."
    )
  return [
    Prompt(clean(_cell(row, prompt)), clean(_cell(row, category)))
    for row in rows
  ]


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
  plain = [cell.strip().lower() for cell in header]
  return next((plain.index(name) for name in names if name in plain), None)


def _cell(row: Sequence[str], column: int | None) -> str:
  return "" if column is None or column >= len(row) else row[column]


def _compare_drawbench(found: Sequence[Prompt]) -> None:
  """A note where a table looks like DrawBench and is not all of it."""
  counts = collections.Counter(prompt.category for prompt in found)
  if not counts.keys() <= DRAWBENCH.keys() or dict(counts) == DRAWBENCH:
    return
  logging.info(
    "Categories are DrawBench's, but of its 200 prompts these are %d: %s.",
    len(found),
    ", ".join(
      f"{name} {counts[name]} of {n}"
      for name, n in DRAWBENCH.items()
      if counts[name] != n
    ),
  )
