"""Hugging Face CLIP -> ClipText: text towers alone, or those of whole CLIPs.

Names come with `text_model.` (the public files, and whole CLIPs) or without
(text towers that transformers 5 writes). The vision tower, the projections and
the temperature serve CLIP's contrastive loss; they are left out by rules that
say so. Dense kernels are transposed, all else is renamed.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import errors
from imagen_jax.models import clip
from imagen_jax.weights import rules

_TEXT = r"(?:text_model\.)?"
_LAYER = _TEXT + r"encoder\.layers\.(\d+)\."


def dense(source: str, target: str) -> list[rules.Rule]:
  """A Linear layer: its weight is transposed."""
  return [
    rules.Rule(rf"{source}\.weight", f"{target}/kernel", rules.transpose),
    rules.Rule(rf"{source}\.bias", f"{target}/bias"),
  ]


def norm(source: str, target: str) -> list[rules.Rule]:
  """A LayerNorm."""
  return [
    rules.Rule(rf"{source}\.weight", f"{target}/scale"),
    rules.Rule(rf"{source}\.bias", f"{target}/bias"),
  ]


def _table(name: str, target: str) -> rules.Rule:
  """An embedding table."""
  return rules.Rule(
    rf"{_TEXT}embeddings\.{name}_embedding\.weight", f"{target}/embedding"
  )


def layer(source: str) -> list[rules.Rule]:
  """A transformer layer of either tower; `source` ends with its number."""
  return [
    *norm(source + "layer_norm1", r"layer_\1/attention_norm"),
    *dense(source + r"self_attn\.q_proj", r"layer_\1/attention/query"),
    *dense(source + r"self_attn\.k_proj", r"layer_\1/attention/key"),
    *dense(source + r"self_attn\.v_proj", r"layer_\1/attention/value"),
    *dense(source + r"self_attn\.out_proj", r"layer_\1/attention/out"),
    *norm(source + "layer_norm2", r"layer_\1/ffn_norm"),
    *dense(source + r"mlp\.fc1", r"layer_\1/ffn_in"),
    *dense(source + r"mlp\.fc2", r"layer_\1/ffn_out"),
  ]


RULES: tuple[rules.Rule, ...] = (
  # Left out on purpose.
  rules.Rule(r"vision_model\..*", None),
  rules.Rule(r"(?:text|visual)_projection\.weight", None),
  rules.Rule(r"logit_scale", None),
  rules.Rule(rf"{_TEXT}embeddings\.position_ids", None),
  _table("token", "word"),
  _table("position", "position"),
  *layer(_LAYER),
  *norm(_TEXT + "final_layer_norm", "norm"),
)

# A config leaves out what equals transformers' defaults; these are they.
_DEFAULTS = {
  "vocab_size": 49408,
  "hidden_size": 512,
  "num_hidden_layers": 12,
  "num_attention_heads": 8,
  "intermediate_size": 2048,
  "max_position_embeddings": 77,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}


def module(
  config: dict,
  *,
  dtype: DTypeLike = jnp.float32,
  output: Literal["final", "penultimate"] = "final",
) -> clip.ClipText:
  """The text tower that a Hugging Face CLIP config.json describes."""
  text = _text_config(config)
  fields = {key: text.get(key, default) for key, default in _DEFAULTS.items()}
  if fields["hidden_act"] not in clip.ACTIVATIONS:
    raise errors.BadInput(
      f"config.json has hidden_act={fields['hidden_act']!r}; this CLIP text"
      f" encoder knows {', '.join(clip.ACTIVATIONS)}."
    )
  return clip.ClipText(**fields, output=output, dtype=dtype)


def _text_config(config: dict) -> dict:
  """The part about the text tower."""
  kind = config.get("model_type")
  if kind == "clip_text_model":
    return config
  if kind == "clip" and isinstance(config.get("text_config"), dict):
    return config["text_config"]
  if kind == "clip":
    raise errors.BadInput(
      "config.json has model_type='clip' but no text_config; a whole CLIP's"
      " config describes its text tower there."
    )
  raise errors.BadInput(
    f"config.json has model_type={kind!r}; a CLIP text encoder's is"
    " 'clip_text_model', or 'clip' for text and vision together."
  )
