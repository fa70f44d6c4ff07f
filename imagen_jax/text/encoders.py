"""Captions -> (text_emb, text_mask): real text encoders behind one signature.

  text_emb = Encoder(ids) * mask        [b l d], zero on padding

An encoder is a frozen record of network, tokenizer and sizes; its parameters
are a tree beside it. `encode` is the pure function; `text/embedding.py` has
what is convenient on captions. Padding is zeroed, so an embedding depends on
its caption alone; or it keeps the encoder's states there, of which DeepFloyd
IF's networks make use (`padding` "states").

  name       minilm (all-MiniLM-L6-v2, d = 384): small enough to install with
             pip; a stand-in for the paper's T5-XXL (Section 2.1); minilm@2 has
             its first two layers alone, minilm@0 words and places
  folder     a T5, CLIP or BERT as Hugging Face lays them out
  T5X        a checkpoint_1000000 of google-research/t5x, local or gs://
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.core import arrays, errors
from imagen_jax.models import text_variants
from imagen_jax.text import (
  cleaning,
  embedded,
  packages,
  tokenizers,
  vocabularies,
)
from imagen_jax.weights import from_hf, from_t5x, placement

# Unless one is asked for: Imagen's choice for T5, and what CLIP was made for.
_LENGTHS = {
  "bert": 128,
  "clip": 77,
  "clip_text_model": 77,
  "mt5": 128,
  "t5": 128,
  "umt5": 128,
}

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS = ("float32", "bfloat16", "int8")
Padding = Literal["zero", "states"]


# eq=False: compared and hashed by identity, so that jit can hold it static.
@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
  """All of an encoder but its parameters."""

  name: str
  module: nn.Module  # (ids [b l], mask [b l]) -> [b l d]
  tokenizer: tokenizers.Tokenizer
  max_length: int  # l
  width: int  # d
  fingerprint: str  # of the weights, and of their precision if not float32
  clean: str = "none"  # how captions are cleaned first; see text/cleaning
  padding: Padding = "zero"  # what stands on padded tokens


class Preview(NamedTuple):
  """An encoder as far as it is known without its weights."""

  name: str
  tokenizer: tokenizers.Tokenizer
  max_length: int
  width: int
  source: from_hf.Source


def load(
  name_or_folder: str | os.PathLike = "minilm",
  max_length: int | None = None,
  *,
  tokenizer: str | os.PathLike | None = None,
  clean: str = "none",
  precision: Precision = "float32",
  penultimate: bool = False,
  padding: Padding = "zero",
  sharding: placement.Sharding | None = None,
) -> tuple[TextEncoder, arrays.Params]:
  """An encoder by name, or from a folder or T5X checkpoint, and its weights.

  `tokenizer` is a file or folder, by default the one beside the weights (a T5X
  checkpoint has none: then that of T5). `penultimate` takes CLIP's states
  before its last layer, as the paper does (Appendix D.1).
  """
  name = os.fspath(name_or_folder)
  dtypes = _dtypes(precision)
  if padding not in get_args(Padding):
    raise errors.BadInput(
      f"unknown padding {padding!r}; use {', '.join(get_args(Padding))}."
    )
  seen = preview(name, max_length, tokenizer=tokenizer, clean=clean)
  family = seen.source.config["model_type"]
  if penultimate and not family.startswith("clip"):
    raise errors.BadInput(
      f"encoder {name} is a {family}; only CLIP has penultimate states."
    )
  found = from_hf.build(seen.source, **dtypes, sharding=sharding)
  package = packages.PACKAGES.get(name)
  tags = [package.weights_sha256 if package else found.fingerprint]
  tags += [] if precision == "float32" else [precision]
  tags += ["penultimate"] if penultimate else []
  output = {"output": "penultimate"} if penultimate else {}
  encoder = TextEncoder(
    name=seen.name,
    module=found.module.clone(**output),
    tokenizer=seen.tokenizer,
    max_length=seen.max_length,
    width=seen.width,
    fingerprint="-".join(tags),
    clean=clean,
    padding=padding,
  )
  return encoder, found.params


def preview(
  name_or_folder: str | os.PathLike = "minilm",
  max_length: int | None = None,
  *,
  tokenizer: str | os.PathLike | None = None,
  clean: str = "none",
) -> Preview:
  """What `load` would load, with all checks that need no weights."""
  name = os.fspath(name_or_folder)
  cleaning.cleaner(clean)
  source, beside = _open(name)
  if name in packages.PACKAGES and max_length is None:
    max_length = packages.PACKAGES[name].max_length
  module = from_hf.module(source)
  words = _tokenizer(tokenizer or beside, module, name)
  limit = getattr(module, "max_position_embeddings", 1 << 16)
  usual = min(_LENGTHS[source.config["model_type"]], limit)
  length = usual if max_length is None else max_length
  if not words.special < length <= limit:
    raise errors.BadInput(
      f"max_length {length} is not in {words.special + 1}..{limit}, the tokens"
      f" that encoder {name} can read; choose one in that range."
    )
  return Preview(short_name(name), words, length, _width(module), source)


def network(name: str, *, precision: Precision = "float32") -> nn.Module:
  """The module of an encoder, whose weights need not be there.

  `name` is that of a size in models/text_variants, as t5_v1_1_xxl, or what
  `load` takes.
  """
  dtypes = _dtypes(precision)
  if name in text_variants.VARIANTS or not _is_here(name):
    module = text_variants.make(name, dtype=dtypes["dtype"])
  else:
    module = from_hf.module(_open(name)[0], dtype=dtypes["dtype"])
  if dtypes["weights"] == "float":
    return module
  if not hasattr(module, "weights"):
    raise errors.BadInput(
      f"encoder {name} has no int8 weights, T5 alone has; use bfloat16."
    )
  return module.clone(weights="int8")


def _is_here(name: str) -> bool:
  plain = name.partition("@")[0]
  return "/" in name or os.path.isdir(name) or plain in packages.PACKAGES


def _open(name: str) -> tuple[from_hf.Source, str | None]:
  """Names and shapes of weights, and what a tokenizer may lie beside."""
  if "/" not in name and not os.path.isdir(name):
    plain, at, layers = name.partition("@")
    beside = packages.find(plain)
    source = from_hf.read(beside)
    if not at:
      return source, beside
    if not layers.isdecimal():
      raise errors.BadInput(
        f"encoder {name!r} is not NAME@LAYERS, as minilm@2 is."
      )
    return from_hf.first_layers(source, int(layers)), beside
  if name.startswith("gs://") or os.path.isfile(f"{name}/checkpoint"):
    return from_t5x.read(name), None
  return from_hf.read(name), name


def _tokenizer(
  source: str | os.PathLike | None, module: nn.Module, name: str
) -> tokenizers.Tokenizer:
  words = vocabularies.t5() if source is None else vocabularies.load(source)
  if words.vocab_size > module.vocab_size:
    raise errors.BadInput(
      f"the tokenizer has {words.vocab_size} ids, but encoder {name} has an"
      f" embedding of {module.vocab_size} only; give the tokenizer that belongs"
      " to it."
    )
  return words


def _width(module: nn.Module) -> int:
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  states, _ = jax.eval_shape(
    module.init_with_output, jax.random.key(0), ids, mask
  )
  return states.shape[-1]


def short_name(name_or_folder: str) -> str:
  """What a store calls an encoder: its name, wherever its folder is.

  short_name("gs://t5-data/.../t5_1_1_xxl/checkpoint_1000000") is
  "t5_1_1_xxl/checkpoint_1000000".
  """
  parts = [part for part in name_or_folder.split("/") if part]
  of_t5x = len(parts) > 1 and parts[-1].startswith("checkpoint_")
  return "/".join(parts[-2:] if of_t5x else parts[-1:])


def _dtypes(precision: Precision) -> dict:
  if precision not in PRECISIONS:
    raise errors.BadInput(
      f"unknown precision {precision!r}; use {', '.join(PRECISIONS)}."
    )
  dtype = jnp.float32 if precision == "float32" else jnp.bfloat16
  weights = "int8" if precision == "int8" else "float"
  return {"dtype": dtype, "param_dtype": dtype, "weights": weights}


def tokenize(
  encoder: TextEncoder, captions: Sequence[str]
) -> tokenizers.Tokens:
  """(ids, mask) in numpy; a warning shows the words that were cut."""
  return tokenizers.tokenize(
    encoder.tokenizer,
    cleaned(encoder.clean, captions),
    max_length=encoder.max_length,
  )


def cleaned(clean: str, captions: Sequence[str]) -> list[str]:
  """The captions as the tokenizer gets them; `clean` as in text/cleaning."""
  return [*map(cleaning.cleaner(clean), captions)]


def encode(
  encoder: TextEncoder,
  params: arrays.Params,
  ids: Int[Array, "b l"] | Int[np.ndarray, "b l"],
  mask: Bool[Array, "b l"] | Bool[np.ndarray, "b l"],
) -> embedded.Embedded:
  """Pure: token states in float32, and the mask; padding as the encoder's."""
  ids, mask = jnp.asarray(ids), jnp.asarray(mask)
  x = states(encoder.module, params, ids, mask, padding=encoder.padding)
  return embedded.Embedded(x, mask)


def states(
  module: nn.Module,
  params: arrays.Params,
  ids: Int[Array, "b l"],
  mask: Bool[Array, "b l"],
  *,
  padding: Padding = "zero",
) -> Float[Array, "b l d"]:
  """What `encode` computes, of the network alone."""
  x = module.apply({"params": params}, ids, mask)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if padding == "states":
    return x
  return jnp.where(mask[:, :, None], x, 0.0)
