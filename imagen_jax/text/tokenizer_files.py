"""CLIP's and BERT's vocabularies from the files they are published as.

A hub folder may hold a tokenizer.json, which says all of this itself. Older
ones hold only what is read here, and the rest is the same for all of a family:

  CLIP   vocab.json      {piece: id}, byte-level, a word's last ends in </w>
         merges.txt      pairs to merge, in order, behind one line of version
         text            NFC, white space to one space, lower case; cut into
                         letters, single digits, runs of signs, and 's 't ...
         special         <|startoftext|> text <|endoftext|>; padding is the end
  BERT   vocab.txt       a piece a line, its id the number of the line; what
                         goes on a word begins with ##
         text            no control characters, a space around each Chinese
                         character; uncased: lower case, accents dropped
         special         [CLS] text [SEP]; padding is [PAD]

The ids are those of transformers' fast tokenizers.
"""

import os
import pathlib
from collections.abc import Callable

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from imagen_jax.core import errors

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLS, _SEP, _UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_BERT_SPECIAL = ("[PAD]", _UNKNOWN, _CLS, _SEP, "[MASK]")

# English endings, letters, one digit, other signs; white space is dropped.
_CLIP_WORDS = r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clip_bpe(
  vocab_path: str | os.PathLike, merges_path: str | os.PathLike
) -> tokenizers.Tokenizer:
  """The tokenizer of CLIP: text -> [start] pieces [end]."""

  def read(vocab: str, merges: str) -> models.Model:
    return models.BPE.from_file(
      vocab, merges, unk_token=_END, end_of_word_suffix="</w>"
    )

  tokenizer = _build(read, vocab_path, merges_path)
  start, end = _ids(tokenizer, (_START, _END), vocab_path)
  tokenizer.add_special_tokens([_START, _END])
  tokenizer.normalizer = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      normalizers.Lowercase(),
    ]
  )
  words = pre_tokenizers.Split(
    tokenizers.Regex(_CLIP_WORDS), behavior="removed", invert=True
  )
  # The words are cut already: only their bytes are spelt.
  spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, spelt])
  tokenizer.post_processor = _framed(_START, start, _END, end)
  return tokenizer


def bert_wordpiece(
  vocab_path: str | os.PathLike, lowercase: bool
) -> tokenizers.Tokenizer:
  """The tokenizer of BERT: text -> [CLS] pieces [SEP]."""

  def read(vocab: str) -> models.Model:
    return models.WordPiece.from_file(vocab, unk_token=_UNKNOWN)

  tokenizer = _build(read, vocab_path)
  cls, sep, _ = _ids(tokenizer, (_CLS, _SEP, _UNKNOWN), vocab_path)
  known = [t for t in _BERT_SPECIAL if tokenizer.token_to_id(t) is not None]
  tokenizer.add_special_tokens(known)
  # Accents go when case does (strip_accents None).
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = _framed(_CLS, cls, _SEP, sep)
  return tokenizer


def _build(
  read: Callable[..., models.Model], *paths: str | os.PathLike
) -> tokenizers.Tokenizer:
  """A bare tokenizer, or one line that names the file."""
  names = [os.fspath(path) for path in paths]
  for name in names:
    if not pathlib.Path(name).is_file():
      raise errors.BadInput(
        f"{name} does not exist; give the files of a published vocabulary."
      )
  # The library raises bare Exception, and nothing narrower.
  try:
    return tokenizers.Tokenizer(read(*names))
  except Exception as error:
    raise errors.CheckpointError(
      f"{' with '.join(names)} is corrupt or no vocabulary ({error}); fetch it"
      " again."
    ) from error


def _ids(
  tokenizer: tokenizers.Tokenizer,
  pieces: tuple[str, ...],
  path: str | os.PathLike,
) -> list[int]:
  """The ids of pieces that the vocabulary must have."""
  ids = {piece: tokenizer.token_to_id(piece) for piece in pieces}
  missing = [piece for piece, found in ids.items() if found is None]
  if missing:
    raise errors.CheckpointError(
      f"{os.fspath(path)} lacks {', '.join(missing)}: it is another kind of"
      " vocabulary, or cut short; fetch the encoder's own."
    )
  return list(ids.values())


def _framed(
  first: str, first_id: int, last: str, last_id: int
) -> processors.TemplateProcessing:
  """Puts a special token before and behind the text."""
  return processors.TemplateProcessing(
    single=f"{first} $A {last}",
    special_tokens=[(first, first_id), (last, last_id)],
  )
