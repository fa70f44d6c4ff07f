"""Captions -> (ids, mask) of a fixed length, in numpy.

Word pieces by the `tokenizers` library, from the tokenizer.json beside the
encoder's weights. A caption becomes [start] pieces [end] padding; the mask is
true on all but the padding. The empty caption is [start] [end]. What does not
fit is cut behind the last piece that does, and the caller is told which words.

  captions, n of them -> ids [n l] int32, mask [n l] bool
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from absl import logging
from jaxtyping import Bool, Int

from imagen_jax.core import errors

_SHOWN_CHARACTERS = 200  # of a caption, in a warning
_SHOWN_CAPTIONS = 3  # in one warning


class Tokens(NamedTuple):
  """Token ids and where they are real."""

  ids: Int[np.ndarray, "n l"]
  mask: Bool[np.ndarray, "n l"]


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
  """Reads a tokenizer.json; its own padding and truncation are turned off."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise errors.BadInput(
      f"{path} does not exist; give a folder that holds a tokenizer.json."
    )
  # The library raises bare Exception, and nothing narrower.
  try:
    tokenizer = tokenizers.Tokenizer.from_file(path)
  except Exception as error:
    raise errors.CheckpointError(
      f"{path} is corrupt or no tokenizer: {error}; fetch it again."
    ) from error
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return tokenizer


def tokenize(
  tokenizer: tokenizers.Tokenizer,
  captions: Sequence[str],
  *,
  max_length: int,
  pad_id: int = 0,
) -> Tokens:
  """Fixed-length ids and mask; warns of cut words and of unknown ones."""
  extra = tokenizer.num_special_tokens_to_add(is_pair=False)
  if max_length <= extra:
    raise errors.BadInput(
      f"max_length {max_length} leaves no room for words beside {extra}"
      f" special tokens; use at least {extra + 1}."
    )
  texts = [_text(caption, i) for i, caption in enumerate(captions)]
  ids = np.full((len(texts), max_length), pad_id, np.int32)
  mask = np.zeros((len(texts), max_length), np.bool_)
  cut, unknown = [], []
  for i, encoding in enumerate(tokenizer.encode_batch(texts)):
    row = encoding.ids
    if len(row) > max_length:
      cut.append((texts[i], _cut_words(encoding, texts[i], max_length)))
      row = [*row[: max_length - 1], row[-1]]
    unknown += _unknown_words(tokenizer, encoding, texts[i])
    ids[i, : len(row)] = row
    mask[i, : len(row)] = True
  _warn_cut(cut, max_length)
  _warn_unknown(unknown)
  return Tokens(ids, mask)


def _text(caption: object, index: int) -> str:
  """The caption as valid unicode; a lone surrogate becomes "?"."""
  if not isinstance(caption, str):
    raise errors.BadInput(
      f"caption {index} is {type(caption).__name__}, expected str."
    )
  return caption.encode("utf-8", "replace").decode("utf-8")


def _cut_words(
  encoding: tokenizers.Encoding, text: str, max_length: int
) -> str:
  """The end of the caption from the first word that is not read whole."""
  first = max_length - 1  # the last place is the end token's
  begin, _ = encoding.word_to_chars(encoding.word_ids[first])
  return text[begin:].strip()


def _unknown_words(
  tokenizer: tokenizers.Tokenizer, encoding: tokenizers.Encoding, text: str
) -> list[str]:
  """The parts of the caption that the vocabulary has no pieces for."""
  unknown_token = getattr(tokenizer.model, "unk_token", None)
  if unknown_token is None or unknown_token not in encoding.tokens:
    return []
  return [
    text[begin:end]
    for token, (begin, end) in zip(
      encoding.tokens, encoding.offsets, strict=True
    )
    if token == unknown_token and text[begin:end] != unknown_token
  ]


def _shown(text: str) -> str:
  """A quoted text; of a long one the start, and how much more there is."""
  if len(text) <= _SHOWN_CHARACTERS:
    return repr(text)
  rest = len(text) - _SHOWN_CHARACTERS
  return f"{text[:_SHOWN_CHARACTERS]!r} and {rest} more characters"


def _warn_cut(cut: list[tuple[str, str]], max_length: int) -> None:
  for text, words in cut[:_SHOWN_CAPTIONS]:
    logging.warning(
      "The encoder reads %d tokens; of the prompt %s it does not see: %s",
      max_length,
      repr(text[:40] + "..."),
      _shown(words),
    )
  if len(cut) > _SHOWN_CAPTIONS:
    logging.warning(
      "%d more prompts were cut at %d tokens.",
      len(cut) - _SHOWN_CAPTIONS,
      max_length,
    )


def _warn_unknown(unknown: list[str]) -> None:
  if unknown:
    distinct = list(dict.fromkeys(unknown))
    logging.warning(
      "The encoder does not know, and reads as a blank: %s",
      _shown(" ".join(distinct)),
    )
