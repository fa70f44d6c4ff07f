"""Vocabularies from the files that encoders are published with.

folder of an encoder   tokenizer.json, spiece.model, vocab.json with
                       merges.txt, or vocab.txt: the first that is there
file                   tokenizer.json (also .gz), *.model
t5()                   the vocabulary of T5, which comes with us
"""

import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers as tokenizers_lib
from jaxtyping import Int

from imagen_jax.core import errors, files
from imagen_jax.text import tokenizer_files, tokenizers

T5 = pathlib.Path(__file__).parents[1] / "assets" / "t5" / "tokenizer.json.gz"


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
  """The tokenizer in a folder or of a file."""
  path = pathlib.Path(path)
  if path.is_dir():
    return _from_folder(path)
  if not path.is_file():
    raise errors.BadInput(
      f"{path} does not exist; give a folder that holds a tokenizer.json or"
      " spiece.model, or such a file."
    )
  if path.suffix == ".model":
    return _from_sentencepiece(path)
  try:
    content = path.read_bytes()
    if path.suffix == ".gz":
      content = gzip.decompress(content)
  except (OSError, EOFError, zlib.error) as error:
    raise _corrupt(path, error) from error
  with _damage_of(path):
    return _wrap(_from_json(content), hashlib.sha256(content).hexdigest())


def t5() -> tokenizers.Tokenizer:
  """The 32,000 pieces and 100 sentinels of T5 and T5 v1.1."""
  return load(T5)


def t5_json() -> bytes:
  """The vocabulary of T5 as a tokenizer.json."""
  return gzip.decompress(T5.read_bytes())


def _from_folder(folder: pathlib.Path) -> tokenizers.Tokenizer:
  for name in ("tokenizer.json", "spiece.model"):
    if (folder / name).is_file():
      return load(folder / name)
  words, merges = folder / "vocab.json", folder / "merges.txt"
  if words.is_file() and merges.is_file():
    built = tokenizer_files.clip_bpe(words, merges)
    return _wrap(built, files.sha256_files([words, merges]))
  pieces, options = folder / "vocab.txt", folder / "tokenizer_config.json"
  if pieces.is_file():
    lowercase = bool(_reads(options).get("do_lower_case", True))
    built = tokenizer_files.bert_wordpiece(pieces, lowercase=lowercase)
    tag = f"{files.sha256_file(pieces)} lowercase={lowercase}"
    return _wrap(built, hashlib.sha256(tag.encode()).hexdigest())
  raise errors.BadInput(
    f"{folder} holds no tokenizer.json, spiece.model, vocab.txt, nor vocab.json"
    " with merges.txt; copy the encoder's own there, or name one with"
    " --tokenizer."
  )


def _reads(path: pathlib.Path) -> dict:
  """A small JSON file beside a vocabulary; nothing if there is none."""
  if not path.is_file():
    return {}
  try:
    return dict(files.parse_json(path.read_bytes()))
  except (ValueError, TypeError) as error:
    raise errors.CheckpointError(
      f"{path} is not readable JSON ({error}); fetch it again."
    ) from error


@contextlib.contextmanager
def _damage_of(path: pathlib.Path) -> Iterator[None]:
  """The library raises bare Exception, and panics of Rust, which are none."""
  try:
    yield
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:
    raise _corrupt(path, error) from error


def _from_json(content: bytes) -> tokenizers_lib.Tokenizer:
  """A tokenizer.json; its own padding and truncation are turned off."""
  tokenizer = tokenizers_lib.Tokenizer.from_buffer(content)
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return tokenizer


def _corrupt(
  path: pathlib.Path, error: BaseException
) -> errors.CheckpointError:
  return errors.CheckpointError(
    f"{path} is corrupt or no tokenizer: {error}; fetch it again."
  )


def _wrap(
  tokenizer: tokenizers_lib.Tokenizer, sha256: str
) -> tokenizers.Tokenizer:
  def split(texts: Sequence[str]) -> list[tokenizers.Pieces]:
    # Sentencepiece drops white space at the end; the library alone does not.
    stripped = [text.rstrip() for text in texts]
    return [
      tokenizers.Pieces(encoding.ids, encoding.offsets)
      for encoding in tokenizer.encode_batch(stripped)
    ]

  special = tokenizer.num_special_tokens_to_add(is_pair=False)
  empty = split([""])[0].ids
  model = json.loads(tokenizer.to_str())["model"]
  unknown_id = model.get("unk_id")  # T5; the others name the token
  if unknown_id is None and model.get("unk_token") is not None:
    unknown_id = tokenizer.token_to_id(model["unk_token"])
  return tokenizers.Tokenizer(
    split=split,
    vocab_size=1 + max(tokenizer.get_vocab().values()),
    special=special,
    # CLIP names its end token here, and has a piece for every byte.
    unknown_id=None if unknown_id in empty else unknown_id,
    sha256=sha256,
  )


def _from_sentencepiece(path: pathlib.Path) -> tokenizers.Tokenizer:
  try:
    import sentencepiece
  except ImportError as error:
    raise errors.BadInput(
      f"{path} needs the package sentencepiece; run: pip install"
      ' "imagen_jax[t5]". Or use a tokenizer.json.'
    ) from error
  try:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
  except (RuntimeError, OSError, TypeError) as error:
    raise _corrupt(path, error) from error

  def split(texts: Sequence[str]) -> list[tokenizers.Pieces]:
    end = model.eos_id()
    found = []
    for text in texts:
      pieces = model.encode(text, return_type="proto").pieces
      ids = [piece.id for piece in pieces]
      at = _characters_before(text)
      spans = [(int(at[p.begin]), int(at[p.end])) for p in pieces]
      found.append(
        tokenizers.Pieces([*ids, end], [*spans, (len(text), len(text))])
      )
    return found

  return tokenizers.Tokenizer(
    split=split,
    vocab_size=model.get_piece_size(),
    special=1,
    unknown_id=model.unk_id(),
    sha256=files.sha256_file(path),
  )


def _characters_before(text: str) -> Int[np.ndarray, "_"]:
  """How many characters begin before each byte of the UTF-8, and its end."""
  octets = np.frombuffer(text.encode(), np.uint8)
  begins = (octets & 0xC0) != 0x80
  return np.concatenate([[0], np.cumsum(begins)])
