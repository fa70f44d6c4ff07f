"""What embedding a stream of captions would store, from the tokenizer alone."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from imagen_jax.text import encoders, store_format, store_index, tokenizers

_BLOCK = 4096  # captions in one call of the tokenizer
_SHOWN = 3  # captions that are cut


class Estimate(NamedTuple):
  """Counts over the captions, and the size of the store."""

  examples: int
  captions: int  # different ones; the rest is of these
  tokens: int
  truncated: int  # captions that do not fit
  unknown: int  # captions with words that the tokenizer lacks
  bytes: int
  lost: list[tuple[str, str]]  # a few captions, and the words they lose


def estimate(
  captions: Iterable[str],
  seen: encoders.Preview,
  *,
  clean: str,
  dtype: store_format.Dtype,
) -> Estimate:
  """Reads all captions once; keeps 16 bytes of each different one."""
  known: set[bytes] = set()
  lost: list[tuple[str, str]] = []
  examples = tokens = truncated = unknown = 0
  stream = iter(captions)
  while block := list(itertools.islice(stream, _BLOCK)):
    by_digest = {store_index.digest(caption): caption for caption in block}
    new = {d: c for d, c in by_digest.items() if d not in known}
    known.update(new)
    found = tokenizers.ragged(
      seen.tokenizer,
      encoders.cleaned(clean, list(new.values())),
      max_length=seen.max_length,
    )
    examples += len(block)
    tokens += sum(map(len, found.ids))
    truncated += sum(map(bool, found.cut))
    pairs = zip(new.values(), found.cut, strict=True)
    lost += [(c, words) for c, words in pairs if words][: _SHOWN - len(lost)]
    unknown += sum(map(bool, found.unknown))
  size = store_format.estimate_bytes(
    examples=examples,
    captions=len(known),
    tokens=tokens,
    dtype=dtype,
    width=seen.width,
  )
  return Estimate(examples, len(known), tokens, truncated, unknown, size, lost)
