r"""Hugging Face T5, mT5 and umT5 -> T5Encoder; also the names of T5X, renamed.

Linear weights are transposed, tables and norm scales are as they are. The word
table comes as `shared.weight`, and often once more under its tied name
`encoder.embed_tokens.weight`; the first is taken, as transformers does. The
decoder of a whole T5, and its head, are left out by rules that say so.

T5 and mT5 share one bias table, stored in block 0; umT5 has one a layer, hence
a second list of rules.
"""

import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import errors
from imagen_jax.models import t5
from imagen_jax.weights import rules

_BLOCK = r"encoder\.block\.(\d+)\."
_ATTENTION = r"layer\.0\.SelfAttention\."
_MLP = r"layer\.1\.DenseReluDense\."
_BIAS = rf"{_ATTENTION}relative_attention_bias\.weight"
_HEADS = {"q": "query", "k": "key", "v": "value", "o": "out"}

_COMMON = (
  # Left out on purpose.
  rules.Rule(r"encoder\.embed_tokens\.weight", None),
  rules.Rule(r"decoder\..*", None),
  rules.Rule(r"lm_head\.weight", None),
  rules.Rule(r"shared\.weight", "token_embedder/embedding"),
  *(
    rules.Rule(
      rf"{_BLOCK}{_ATTENTION}{short}\.weight",
      rf"layers/\1/attention/{long}/kernel",
      rules.transpose,
    )
    for short, long in _HEADS.items()
  ),
  rules.Rule(
    rf"{_BLOCK}{_MLP}(wi|wi_0|wi_1|wo)\.weight",
    r"layers/\1/mlp/\2/kernel",
    rules.transpose,
  ),
  rules.Rule(
    rf"{_BLOCK}layer\.0\.layer_norm\.weight", r"layers/\1/attention_norm/scale"
  ),
  rules.Rule(
    rf"{_BLOCK}layer\.1\.layer_norm\.weight", r"layers/\1/mlp_norm/scale"
  ),
  rules.Rule(r"encoder\.final_layer_norm\.weight", "final_norm/scale"),
)

RULES: tuple[rules.Rule, ...] = (
  *_COMMON,
  rules.Rule(rf"encoder\.block\.0\.{_BIAS}", "relative_bias/table"),
)
PER_LAYER_RULES: tuple[rules.Rule, ...] = (
  *_COMMON,
  rules.Rule(rf"{_BLOCK}{_BIAS}", r"layers/\1/relative_bias/table"),
)

# model_type -> what feed_forward_proj is where config.json does not say.
_KINDS = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
_FIELDS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
_DEFAULTS = {
  "relative_attention_num_buckets": 32,
  "relative_attention_max_distance": 128,
  "layer_norm_epsilon": 1e-6,
}


def module(config: dict, *, dtype: DTypeLike = jnp.float32) -> t5.T5Encoder:
  """The network that a Hugging Face T5 config.json describes."""
  kind = config.get("model_type")
  if kind not in _KINDS:
    raise errors.BadInput(
      f"config.json has model_type={kind!r}; this T5 encoder is one of"
      f" {', '.join(_KINDS)}."
    )
  missing = [key for key in _FIELDS if key not in config]
  if missing:
    raise errors.BadInput(
      f"config.json lacks {', '.join(missing)}; a T5 config has them."
    )
  feed_forward = config.get("feed_forward_proj", _KINDS[kind])
  if feed_forward not in ("gated-gelu", "relu"):
    raise errors.BadInput(
      f"config.json has feed_forward_proj={feed_forward!r}; this T5 encoder"
      " knows 'gated-gelu' (v1.1, flan) and 'relu' (v1.0)."
    )
  fields = {key: config[key] for key in _FIELDS}
  fields |= {key: config.get(key, value) for key, value in _DEFAULTS.items()}
  return t5.T5Encoder(
    **fields,
    feed_forward=feed_forward,
    per_layer_bias=kind == "umt5",
    dtype=dtype,
  )
