"""Captions -> embeddings by an encoder, in few compiled shapes.

  embed        padded to the encoder's length, for a handful of prompts
  embed_rows   without padding, for storing
  memo         an `embed` that remembers, for training

Captions of like length go together, `chunk_size` a call (the last is filled
up), at a length of `BUCKETS`: little padding is computed, and few shapes are
compiled. What a caption gets does not depend on its neighbours, but for the
last bits of float32.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from imagen_jax.core import arrays
from imagen_jax.text import embedded, encoders, row_cache, tokenizers

# Captions in one compiled call. Small: a single prompt is padded up to it.
CHUNK_SIZE = 16
# Tokens a row is padded to, up to the encoder's own length: few enough to
# compile, near enough that little padding is computed.
BUCKETS = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)


class Rows(NamedTuple):
  """For each caption the states of its tokens [m d], and its tokens."""

  rows: list[np.ndarray]
  tokens: tokenizers.Ragged


@functools.partial(jax.jit, static_argnums=0)
def _encode_chunk(
  encoder: encoders.TextEncoder,
  params: arrays.Params,
  ids: Int[Array, "b l"],
  mask: Bool[Array, "b l"],
) -> Float[Array, "b l d"]:
  return encoders.encode(encoder, params, ids, mask).text_emb


def embed(
  encoder: encoders.TextEncoder,
  params: arrays.Params,
  captions: Sequence[str],
  *,
  chunk_size: int = CHUNK_SIZE,
) -> embedded.Embedded:
  """Captions -> numpy (text_emb, text_mask) of the encoder's length.

  Warns of words that were cut, and of unknown ones.
  """
  if encoder.padding == "states":
    return _embed_whole(encoder, params, captions, chunk_size)
  found = embed_rows(encoder, params, captions, chunk_size=chunk_size)
  tokenizers.warn(captions, found.tokens, max_length=encoder.max_length)
  return embedded.pad_rows(found.rows, encoder.max_length, encoder.width)


def _embed_whole(
  encoder: encoders.TextEncoder,
  params: arrays.Params,
  captions: Sequence[str],
  chunk_size: int,
) -> embedded.Embedded:
  """All at the encoder's length: what padding becomes depends on its place."""
  tokens = encoders.tokenize(encoder, captions)
  parts = []
  for begin in range(0, len(captions), chunk_size):
    chunk = [x[begin : begin + chunk_size] for x in tokens]
    fill = ((0, chunk_size - len(chunk[0])), (0, 0))
    states = _encode_chunk(encoder, params, *(np.pad(x, fill) for x in chunk))
    parts.append(np.asarray(states)[: len(chunk[0])])
  return embedded.Embedded(np.concatenate(parts), tokens.mask)


def embed_rows(
  encoder: encoders.TextEncoder,
  params: arrays.Params,
  captions: Sequence[str],
  *,
  chunk_size: int = CHUNK_SIZE,
  sharding: jax.sharding.Sharding | None = None,
) -> Rows:
  """Captions -> the states of their own tokens, float32 in numpy.

  `sharding` places the [b l] inputs of each call.
  """
  tokens = tokenizers.ragged(
    encoder.tokenizer,
    encoders.cleaned(encoder.clean, captions),
    max_length=encoder.max_length,
  )
  ids = tokens.ids
  rows = [np.zeros((0, encoder.width), np.float32)] * len(ids)
  waiting: list[tuple[list[int], jax.Array]] = []
  for chosen, chunk in _chunks(encoder, ids, chunk_size):
    if sharding is not None:
      chunk = jax.device_put(chunk, sharding)
    waiting.append((chosen, _encode_chunk(encoder, params, *chunk)))
    if len(waiting) > 1:  # one is computed while the one before is copied
      _collect(rows, ids, *waiting.pop(0))
  for pair in waiting:
    _collect(rows, ids, *pair)
  return Rows(rows, tokens)


def _chunks(
  encoder: encoders.TextEncoder, ids: Sequence[np.ndarray], chunk_size: int
) -> Iterator[tuple[list[int], tokenizers.Tokens]]:
  """(places, tokens [chunk_size bucket]), longest captions first."""
  order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
  for begin in range(0, len(order), chunk_size):
    chosen = order[begin : begin + chunk_size]
    longest = len(ids[chosen[0]])
    fitting = (bucket for bucket in BUCKETS if bucket >= longest)
    length = min(next(fitting, encoder.max_length), encoder.max_length)
    tokens = tokenizers.pad([ids[i] for i in chosen], length)
    fill = ((0, chunk_size - len(chosen)), (0, 0))
    yield chosen, tokenizers.Tokens(*(np.pad(x, fill) for x in tokens))


def _collect(
  rows: list[np.ndarray],
  ids: Sequence[np.ndarray],
  chosen: list[int],
  states: Float[Array, "b l d"],
) -> None:
  host = np.asarray(states)
  for row, i in enumerate(chosen):
    rows[i] = host[row, : len(ids[i])].copy()


def memo(
  encoder: encoders.TextEncoder,
  params: arrays.Params,
  *,
  max_bytes: int = 1 << 29,
  dtype: DTypeLike = ml_dtypes.bfloat16,
  chunk_size: int = CHUNK_SIZE,
) -> embedded.Embed:
  """`embed` bound to an encoder, that remembers up to `max_bytes` of rows.

  Only real tokens are kept, in `dtype` (bfloat16: 11 kB for a caption of 15
  tokens and d = 384). What is returned has passed through `dtype` whether it
  was remembered or not, so results do not depend on what was asked before.
  Threads take turns.
  """
  cache = row_cache.RowCache(max_bytes)
  lock = threading.Lock()

  def lookup(captions: Sequence[str]) -> dict[str, np.ndarray]:
    rows = cache.get(captions)
    new = [c for c in dict.fromkeys(captions) if c not in rows]
    if new:
      found = embed_rows(encoder, params, new, chunk_size=chunk_size)
      tokenizers.warn(new, found.tokens, max_length=encoder.max_length)
      computed = {
        caption: row.astype(dtype)
        for caption, row in zip(new, found.rows, strict=True)
      }
      cache.put(computed)
      rows |= computed
    return rows

  def embed_captions(captions: Sequence[str]) -> embedded.Embedded:
    with lock:
      rows = lookup(captions)
    kept = [rows[caption] for caption in captions]
    return embedded.pad_rows(kept, encoder.max_length, encoder.width)

  return embed_captions
