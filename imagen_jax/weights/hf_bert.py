r"""Hugging Face BERT -> BertEncoder, under three spellings of the names.

They are those of transformers (`encoder.layer.0...LayerNorm.weight`), the same
behind a `bert.` prefix, and the first public checkpoints' `LayerNorm.gamma` /
`LayerNorm.beta`. What an encoder has no use for (pooler, position_ids, the
pretraining heads) is left out by rules that say so. Dense kernels are
transposed, all else is renamed.
"""

import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import errors
from imagen_jax.models import bert
from imagen_jax.weights import rules

_LAYER = r"(?:bert\.)?encoder\.layer\.(\d+)\."
_EMBED = r"(?:bert\.)?embeddings\."
_NORM = r"LayerNorm\."
_SCALE = r"(?:weight|gamma)"
_BIAS = r"(?:bias|beta)"


def _dense(source: str, target: str) -> list[rules.Rule]:
  """A Linear layer: its weight is transposed."""
  return [
    rules.Rule(rf"{source}weight", f"{target}/kernel", rules.transpose),
    rules.Rule(rf"{source}bias", f"{target}/bias"),
  ]


def _norm(source: str, target: str) -> list[rules.Rule]:
  """A LayerNorm, in the old or the new spelling."""
  return [
    rules.Rule(rf"{source}{_NORM}{_SCALE}", f"{target}/norm/scale"),
    rules.Rule(rf"{source}{_NORM}{_BIAS}", f"{target}/norm/bias"),
  ]


def _table(name: str, target: str) -> rules.Rule:
  """An embedding table."""
  return rules.Rule(
    rf"{_EMBED}{name}_embeddings\.weight", f"embeddings/{target}/embedding"
  )


RULES: tuple[rules.Rule, ...] = (
  # Left out on purpose.
  rules.Rule(r"(?:bert\.)?pooler\.dense\.(?:weight|bias)", None),
  rules.Rule(rf"{_EMBED}position_ids", None),
  rules.Rule(r"cls\.(?:predictions|seq_relationship)\..*", None),
  _table("word", "word"),
  _table("position", "position"),
  _table("token_type", "segment"),
  *_norm(_EMBED, "embeddings/norm"),
  *_dense(
    _LAYER + r"attention\.self\.(query|key|value)\.", r"layer_\1/attention/\2"
  ),
  *_dense(_LAYER + r"attention\.output\.dense\.", r"layer_\1/attention/out"),
  *_norm(_LAYER + r"attention\.output\.", r"layer_\1/attention_norm"),
  *_dense(_LAYER + r"intermediate\.dense\.", r"layer_\1/ffn_in"),
  *_dense(_LAYER + r"output\.dense\.", r"layer_\1/ffn_out"),
  *_norm(_LAYER + r"output\.", r"layer_\1/ffn_norm"),
)

_FIELDS = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
  "max_position_embeddings",
  "type_vocab_size",
  "layer_norm_eps",
)
# What this encoder is; a config that says otherwise describes another network.
_FIXED = {
  "model_type": "bert",
  "hidden_act": "gelu",
  "position_embedding_type": "absolute",
  "is_decoder": False,
  "add_cross_attention": False,
}


def module(config: dict, *, dtype: DTypeLike = jnp.float32) -> bert.BertEncoder:
  """The network that a Hugging Face BERT config.json describes."""
  for key, expected in _FIXED.items():
    given = config.get(key, expected)
    if given != expected:
      raise errors.BadInput(
        f"config.json has {key}={given!r}; this BERT encoder is"
        f" {key}={expected!r} only."
      )
  missing = [key for key in _FIELDS if key not in config]
  if missing:
    raise errors.BadInput(
      f"config.json lacks {', '.join(missing)}; a BERT config has them."
    )
  fields = {key: config[key] for key in _FIELDS}
  return bert.BertEncoder(**fields, dtype=dtype)
