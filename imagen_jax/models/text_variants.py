"""Named sizes of the text encoders, each with its exact number of parameters.

T5 v1.1 is what the paper uses (Section 2.1); flan is the same network trained
on, and v1.0 the one before it. BERT and CLIP are the paper's other encoders
(Appendix D.1). Counts are of what the encoder computes with, word tables
included: no pooler, no decoder, no projection.
"""

import difflib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import errors, tree
from imagen_jax.models import bert, clip, t5


class Variant(NamedTuple):
  """A named encoder."""

  network: type[nn.Module]
  fields: dict[str, object]
  parameters: int  # exact


def _t5(
  d_model: int,
  d_ff: int,
  num_layers: int,
  num_heads: int,
  d_kv: int = 64,
  feed_forward: t5.FeedForward = "gated-gelu",
) -> dict[str, object]:
  return {
    "vocab_size": 32128,
    "d_model": d_model,
    "d_kv": d_kv,
    "d_ff": d_ff,
    "num_layers": num_layers,
    "num_heads": num_heads,
    "feed_forward": feed_forward,
  }


def _bert(d: int, layers: int, heads: int) -> dict[str, object]:
  return {
    "vocab_size": 30522,
    "hidden_size": d,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "intermediate_size": 4 * d,
  }


_V1_1 = {
  "small": Variant(t5.T5Encoder, _t5(512, 1024, 8, 6), 35_332_800),
  "base": Variant(t5.T5Encoder, _t5(768, 2048, 12, 12), 109_628_544),
  "large": Variant(t5.T5Encoder, _t5(1024, 2816, 24, 16), 341_231_104),
  "xl": Variant(t5.T5Encoder, _t5(2048, 5120, 24, 32), 1_223_527_424),
  "xxl": Variant(t5.T5Encoder, _t5(4096, 10240, 24, 64), 4_762_310_656),
}
_V1_0 = {
  "small": (_t5(512, 2048, 6, 8, 64, "relu"), 35_330_816),
  "base": (_t5(768, 3072, 12, 12, 64, "relu"), 109_628_544),
  "large": (_t5(1024, 4096, 24, 16, 64, "relu"), 334_939_648),
  "3b": (_t5(1024, 16384, 24, 32, 128, "relu"), 1_240_909_824),
  "11b": (_t5(1024, 65536, 24, 128, 128, "relu"), 4_864_791_552),
}
_CLIP = {
  "vocab_size": 49408,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "max_position_embeddings": 77,
  "hidden_act": "quick_gelu",
}

VARIANTS: dict[str, Variant] = {
  **{f"t5_v1_1_{size}": variant for size, variant in _V1_1.items()},
  **{f"flan_t5_{size}": variant for size, variant in _V1_1.items()},
  **{f"t5_{size}": Variant(t5.T5Encoder, *row) for size, row in _V1_0.items()},
  "bert_base": Variant(bert.BertEncoder, _bert(768, 12, 12), 108_891_648),
  "bert_large": Variant(bert.BertEncoder, _bert(1024, 24, 16), 334_092_288),
  "clip_vit_l_14": Variant(clip.ClipText, _CLIP, 123_060_480),
}


def make(name: str, *, dtype: DTypeLike = jnp.float32) -> nn.Module:
  """The encoder of this name, computing in `dtype`."""
  if name not in VARIANTS:
    close = difflib.get_close_matches(name, VARIANTS, n=2)
    hint = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise errors.BadInput(
      f"unknown text encoder {name!r};{hint} use one of {sorted(VARIANTS)}."
    )
  variant = VARIANTS[name]
  return variant.network(**variant.fields, dtype=dtype)


def parameter_count(module: nn.Module) -> int:
  """The number of parameters, from shapes alone."""
  ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 8), jnp.bool_)
  shapes = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  return tree.count(shapes["params"])
