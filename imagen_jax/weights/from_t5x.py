"""T5X checkpoints -> our T5 encoder, by way of their Hugging Face names.

T5X's arrays are renamed to what transformers calls them, and transposed to how
it stores them; hf_t5 is then the one table into our tree, and the fingerprint
of equal values is equal. Attention kernels come as matrices or, scanned, with
their heads apart: [d n k], the output [n k d]. The sizes that Hugging Face
writes in config.json are those of the arrays.
"""

import os
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from imagen_jax.core import errors
from imagen_jax.nn import int8
from imagen_jax.weights import from_hf, placement, rules, t5x_reader
from imagen_jax.weights.tensors import Tensor


def _heads_in(x: np.ndarray) -> np.ndarray:
  """[d n k] or [d nk] -> [nk d]."""
  return x.reshape(x.shape[0], -1).T


def _heads_out(x: np.ndarray) -> np.ndarray:
  """[n k d] or [nk d] -> [d nk]."""
  return x.reshape(-1, x.shape[-1]).T


_LAYER = r"target/encoder/layers_(\d+)/"
_BLOCK = r"encoder.block.\1."
_ATTENTION = "layer.0.SelfAttention."
_BIAS = "relative_attention_bias.weight"

RULES: tuple[rules.Rule, ...] = (
  # Left out on purpose: the optimizer's slots and the step, and the decoder.
  rules.Rule(r"state/.*", None),
  rules.Rule(r"target/decoder/.*", None),
  rules.Rule(r"target/token_embedder/embedding", "shared.weight"),
  *(
    rules.Rule(
      rf"{_LAYER}attention/{name}/kernel",
      f"{_BLOCK}{_ATTENTION}{name[0]}.weight",
      _heads_in,
    )
    for name in ("query", "key", "value")
  ),
  rules.Rule(
    rf"{_LAYER}attention/out/kernel",
    f"{_BLOCK}{_ATTENTION}o.weight",
    _heads_out,
  ),
  rules.Rule(
    rf"{_LAYER}mlp/(wi|wi_0|wi_1|wo)/kernel",
    rf"{_BLOCK}layer.1.DenseReluDense.\2.weight",
    rules.transpose,
  ),
  rules.Rule(
    rf"{_LAYER}pre_attention_layer_norm/scale",
    f"{_BLOCK}layer.0.layer_norm.weight",
  ),
  rules.Rule(
    rf"{_LAYER}pre_mlp_layer_norm/scale", f"{_BLOCK}layer.1.layer_norm.weight"
  ),
  rules.Rule(
    r"target/encoder/relpos_bias/rel_embedding",
    f"encoder.block.0.{_ATTENTION}{_BIAS}",
    rules.transpose,
  ),
  rules.Rule(
    rf"{_LAYER}relpos_bias/rel_embedding",
    f"{_BLOCK}{_ATTENTION}{_BIAS}",
    rules.transpose,
  ),
  rules.Rule(
    r"target/encoder/encoder_norm/scale", "encoder.final_layer_norm.weight"
  ),
)


def load(
  source: str | os.PathLike,
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  weights: int8.Weights = "float",
  sharding: placement.Sharding | None = None,
) -> from_hf.Loaded:
  """The encoder of a directory checkpoint_<step>, local or gs://.

  The options are those of from_hf.load.
  """
  return from_hf.build(
    read(source),
    dtype=dtype,
    param_dtype=param_dtype,
    weights=weights,
    sharding=sharding,
  )


def read(source: str | os.PathLike) -> from_hf.Source:
  """A T5X checkpoint, seen as a Hugging Face folder."""
  what = os.fspath(source)
  tensors = renamed(t5x_reader.read(source), what=what)
  return from_hf.Source(tensors, config(tensors, what=what), what)


def renamed(
  tensors: Mapping[str, Tensor], *, what: str = "checkpoint"
) -> dict[str, Tensor]:
  """The encoder's tensors under Hugging Face names, still not read."""
  result: dict[str, Tensor] = {}
  problems = []
  for name, tensor in tensors.items():
    rule, target = rules.match(RULES, name)
    if rule is None:
      problems.append(f"unused: {name} {tensor.shape}, no rule takes it")
    elif target in result:
      problems.append(f"twice: {target}, the second time from {name}")
    elif target is not None:
      result[target] = _transformed(tensor, rule.transform)
  if problems:
    lines = "\n  ".join(problems)
    raise errors.CheckpointError(
      f"{what} does not fit, {len(problems)} problem(s):\n  {lines}"
    )
  return result


def config(
  tensors: Mapping[str, Tensor], *, what: str = "checkpoint"
) -> dict[str, object]:
  """The config.json that belongs to these tensors."""
  first = "encoder.block.0."
  gated = f"{first}layer.1.DenseReluDense.wi_0.weight" in tensors
  names = (
    "shared.weight",
    f"{first}{_ATTENTION}q.weight",
    f"{first}{_ATTENTION}{_BIAS}",
    f"{first}layer.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight",
  )
  lacking = [name for name in names if name not in tensors]
  if lacking:
    raise errors.CheckpointError(
      f"{what} is no T5 encoder: it has nothing that would become"
      f" {', '.join(lacking)}."
    )
  (vocab, d), (inner, _), (buckets, heads), (d_ff, _) = (
    tensors[name].shape for name in names
  )
  blocks = (re.match(r"encoder\.block\.(\d+)", name) for name in tensors)
  per_layer = f"encoder.block.1.{_ATTENTION}{_BIAS}" in tensors
  return {
    "architectures": ["UMT5EncoderModel" if per_layer else "T5EncoderModel"],
    "model_type": "umt5" if per_layer else "t5",
    "vocab_size": vocab,
    "d_model": d,
    "d_kv": inner // heads,
    "d_ff": d_ff,
    "num_layers": 1 + max(int(block[1]) for block in blocks if block),
    "num_heads": heads,
    "feed_forward_proj": "gated-gelu" if gated else "relu",
    "relative_attention_num_buckets": buckets,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "is_encoder_decoder": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
  }


def _transformed(tensor: Tensor, transform: rules.Transform) -> Tensor:
  shape = rules.transformed(transform, tensor.shape)
  return Tensor(shape, tensor.dtype, lambda: transform(tensor.read()))
