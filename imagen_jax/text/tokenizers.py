"""Captions -> (ids, mask) in numpy, whatever the vocabulary.

A caption becomes [start] pieces end padding (T5 has no start); the mask is true
on all but the padding. The empty caption is [start] end. What does not fit is
cut behind the last piece that does, and the caller is told which words.

  captions, n of them -> ids [n l] int32, mask [n l] bool
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool, Int

from imagen_jax.core import errors

_SHOWN_CHARACTERS = 200  # of a caption, in a warning
_SHOWN_CAPTIONS = 3  # in one warning


class Pieces(NamedTuple):
  """A whole caption in pieces, special tokens and all."""

  ids: list[int]
  spans: list[tuple[int, int]]  # the characters of each piece


# eq=False: compared and hashed by identity, as a field of an encoder.
@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """A vocabulary and how text is cut by it."""

  split: Callable[[Sequence[str]], list[Pieces]]
  vocab_size: int  # ids are below it
  special: int  # start and end tokens of a caption; the end is one
  unknown_id: int | None  # of a piece that the vocabulary lacks
  sha256: str  # of the files that define it


class Tokens(NamedTuple):
  """Token ids and where they are real."""

  ids: Int[np.ndarray, "n l"]
  mask: Bool[np.ndarray, "n l"]


class Ragged(NamedTuple):
  """The ids of each caption, without padding, and what it lost."""

  ids: list[Int[np.ndarray, "_"]]
  cut: list[str]  # the words at its end that did not fit, or ""
  unknown: list[str]  # the words that the vocabulary lacks, or ""


def tokenize(
  tokenizer: Tokenizer,
  captions: Sequence[str],
  *,
  max_length: int,
  pad_id: int = 0,
) -> Tokens:
  """Fixed-length ids and mask; warns of cut words and of unknown ones."""
  rows = ragged(tokenizer, captions, max_length=max_length)
  warn(captions, rows, max_length=max_length)
  return pad(rows.ids, max_length, pad_id=pad_id)


def pad(
  rows: Sequence[Int[np.ndarray, "_"]], length: int, *, pad_id: int = 0
) -> Tokens:
  """Rows of at most `length` ids as one array, and their mask."""
  ids = np.full((len(rows), length), pad_id, np.int32)
  mask = np.zeros((len(rows), length), np.bool_)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
    mask[i, : len(row)] = True
  return Tokens(ids, mask)


def ragged(
  tokenizer: Tokenizer, captions: Sequence[str], *, max_length: int
) -> Ragged:
  """The ids of each caption, at most `max_length`."""
  if max_length <= tokenizer.special:
    raise errors.BadInput(
      f"max_length {max_length} leaves no room for words beside"
      f" {tokenizer.special} special tokens; use at least"
      f" {tokenizer.special + 1}."
    )
  texts = [_text(caption, i) for i, caption in enumerate(captions)]
  rows, cut, unknown = [], [], []
  for text, pieces in zip(texts, tokenizer.split(texts), strict=True):
    ids, lost = pieces.ids, ""
    if len(ids) > max_length:
      lost = _cut_words(text, pieces.spans[max_length - 1][0])
      ids = [*ids[: max_length - 1], ids[-1]]
    rows.append(np.asarray(ids, np.int32))
    cut.append(lost)
    unknown.append(" ".join(_unknown_words(tokenizer, text, pieces)))
  return Ragged(rows, cut, unknown)


def _text(caption: object, index: int) -> str:
  """The caption as valid unicode; a lone surrogate becomes "?"."""
  if not isinstance(caption, str):
    raise errors.BadInput(
      f"caption {index} is {type(caption).__name__}, expected str."
    )
  return caption.encode("utf-8", "replace").decode("utf-8")


def _cut_words(text: str, begin: int) -> str:
  """The end of the caption from the first word that is not read whole."""
  # A word that begins before the first lost piece is read in part only.
  start = len(text[:begin].rstrip())
  if start == begin:
    start = begin - len(text[:begin].split()[-1]) if begin else 0
  return text[start:].strip()


def _unknown_words(
  tokenizer: Tokenizer, text: str, pieces: Pieces
) -> list[str]:
  """The parts of the caption that the vocabulary has no pieces for."""
  unknown = tokenizer.unknown_id
  if unknown is None or unknown not in pieces.ids:
    return []
  return [
    text[begin:end].strip()
    for i, (begin, end) in zip(pieces.ids, pieces.spans, strict=True)
    if i == unknown
  ]


def _shown(text: str) -> str:
  """A quoted text; of a long one the start, and how much more there is."""
  if len(text) <= _SHOWN_CHARACTERS:
    return repr(text)
  rest = len(text) - _SHOWN_CHARACTERS
  return f"{text[:_SHOWN_CHARACTERS]!r} and {rest} more characters"


def warn(captions: Sequence[str], rows: Ragged, *, max_length: int) -> None:
  """Says which words of which captions the encoder does not see."""
  lost = [(c, w) for c, w in zip(captions, rows.cut, strict=True) if w]
  for caption, words in lost[:_SHOWN_CAPTIONS]:
    logging.warning(
      "The encoder reads %d tokens; of the prompt %s it does not see: %s",
      max_length,
      repr(caption[:40] + "..."),
      _shown(words),
    )
  if len(lost) > _SHOWN_CAPTIONS:
    logging.warning(
      "%d more prompts were cut at %d tokens.",
      len(lost) - _SHOWN_CAPTIONS,
      max_length,
    )
  if unknown := [*filter(None, dict.fromkeys(rows.unknown))]:
    logging.warning(
      "The encoder does not know, and reads as a blank: %s",
      _shown(" ".join(unknown)),
    )
