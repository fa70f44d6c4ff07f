r"""Hugging Face folders (config.json, model.safetensors) -> our encoders.

BERT comes under three spellings, and all are taken: the names of transformers
(`encoder.layer.0...LayerNorm.weight`), the same behind a `bert.` prefix, and
the first public checkpoints' `LayerNorm.gamma` / `LayerNorm.beta`. What an
encoder has no use for (pooler, position_ids, the pretraining heads) is left
out by rules that say so. Dense kernels are transposed, all else is renamed.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from imagen_jax.core import arrays as types
from imagen_jax.core import errors, tree
from imagen_jax.models import bert
from imagen_jax.weights import readers, rules

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


BERT_RULES: tuple[rules.Rule, ...] = (
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

_BERT_FIELDS = (
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
_BERT_FIXED = {
  "model_type": "bert",
  "hidden_act": "gelu",
  "position_embedding_type": "absolute",
  "is_decoder": False,
  "add_cross_attention": False,
}


def bert_module(
  config: dict, *, dtype: DTypeLike = jnp.float32
) -> bert.BertEncoder:
  """The network that a Hugging Face BERT config.json describes."""
  for key, expected in _BERT_FIXED.items():
    given = config.get(key, expected)
    if given != expected:
      raise errors.BadInput(
        f"config.json has {key}={given!r}; this BERT encoder is"
        f" {key}={expected!r} only."
      )
  missing = [key for key in _BERT_FIELDS if key not in config]
  if missing:
    raise errors.BadInput(
      f"config.json lacks {', '.join(missing)}; a BERT config has them."
    )
  fields = {key: config[key] for key in _BERT_FIELDS}
  return bert.BertEncoder(**fields, dtype=dtype)


def bert_params(
  module: bert.BertEncoder,
  arrays: dict[str, np.ndarray],
  *,
  what: str = "checkpoint",
  dtype: DTypeLike = jnp.float32,
) -> types.Params:
  """Hugging Face tensors -> the parameter tree of `module`, in numpy."""
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  variables = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  expected = tree.flatten(variables["params"])
  shapes = {name: leaf.shape for name, leaf in expected.items()}
  flat = rules.apply(BERT_RULES, arrays, shapes, what=what)
  # Copied, so that nothing keeps the file mapped.
  return tree.unflatten(
    {name: np.array(leaf, dtype=dtype) for name, leaf in flat.items()}
  )


def load_bert(
  folder: str | os.PathLike, *, dtype: DTypeLike = jnp.float32
) -> tuple[bert.BertEncoder, types.Params]:
  """Reads config.json and model.safetensors of a folder."""
  folder = os.fspath(folder)
  config = readers.read_json(os.path.join(folder, "config.json"))
  path = os.path.join(folder, "model.safetensors")
  module = bert_module(config, dtype=dtype)
  params = bert_params(module, readers.read_safetensors(path).arrays, what=path)
  return module, params
