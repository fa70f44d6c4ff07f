"""Which record of a store holds a caption, and which an example.

A caption is known by its digest, BLAKE2b-128 of its UTF-8: 16 bytes, so that
100 million captions are 1.6 GB (and four times that while they are sorted).
Equal captions share a record; records are numbered in the order in which their
captions first occur.

  captions [u] S16    the digests of the unique captions, sorted
  records  [u] int64  the record of each of them
  examples [n] int64  the record of each caption of the source, in its order
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

DIGEST_BYTES = 16
# Fixed length: as an element it would lose its trailing zeros, so a digest is
# taken out of an array by `tobytes`.
DIGEST = np.dtype(f"S{DIGEST_BYTES}")
SHOWN_CHARACTERS = 60


class Index(NamedTuple):
  """The three arrays, in memory or mapped from files."""

  captions: Shaped[np.ndarray, "u"]
  records: Int64[np.ndarray, "u"]
  examples: Int64[np.ndarray, "n"]


def digest(caption: str) -> bytes:
  """16 bytes; a lone surrogate counts as the "?" that tokenizers read."""
  data = caption.encode("utf-8", "replace")
  return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests(captions: Iterable[str]) -> Shaped[np.ndarray, "n"]:
  """The digests of a stream of captions, none of which is kept."""
  joined = bytearray()
  for caption in captions:
    joined += digest(caption)
  return np.frombuffer(joined, DIGEST)


def shown(caption: str) -> str:
  """A caption in an error message: quoted, one line, not too long."""
  if len(caption) <= SHOWN_CHARACTERS:
    return repr(caption)
  return f"{caption[:SHOWN_CHARACTERS]!r}... ({len(caption)} characters)"


def build(
  source: Shaped[np.ndarray, "n"],
) -> tuple[Index, Int64[np.ndarray, "u"]]:
  """The index of a source, and where each record's caption first occurs."""
  # As np.unique with both its indices, in half the memory.
  order = np.argsort(source, kind="stable")
  captions = source[order]
  new = np.append(True, captions[1:] != captions[:-1])
  counts = np.diff(np.append(np.flatnonzero(new), len(source)))
  captions, firsts = captions[new], order[new]
  records = np.empty(len(firsts), np.int64)
  records[np.argsort(firsts)] = np.arange(len(firsts))
  examples = np.empty(len(source), np.int64)
  examples[order] = np.repeat(records, counts)
  return Index(captions, records, examples), np.sort(firsts)


def lookup(
  index: Index, wanted: Shaped[np.ndarray, "q"]
) -> Int64[np.ndarray, "q"]:
  """The record of each digest; -1 for one that is not there."""
  places = np.searchsorted(index.captions, wanted)
  places = np.minimum(places, len(index.captions) - 1)
  known = index.captions[places] == wanted
  return np.where(known, index.records[places], -1)
