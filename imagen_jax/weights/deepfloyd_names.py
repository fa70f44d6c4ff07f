r"""DeepFloyd IF's U-Nets under diffusers' names -> BaseUNet.

  down_blocks.i.resnets.j         down_i_block_j       up_blocks.i is level
  down_blocks.i.attentions.j      down_i_attention_j   last - i: it counts from
  down_blocks.i.downsamplers.0    down_i_resample      the coarsest
  mid_block.resnets.j             mid_block_j

Linear weights [out in] are transposed, convolutions [o i h w] become
[h w i o], norm weights are scales. The class token's position [1 d] becomes a
bias [d]. `source_name` is the way back.
"""

import functools
import re

import numpy as np

from imagen_jax.weights import rules


def convolution(x: np.ndarray) -> np.ndarray:
  """A kernel [o i h w] -> [h w i o]."""
  return x.transpose(2, 3, 1, 0)


def _first(x: np.ndarray) -> np.ndarray:
  """[1 d] -> [d]."""
  return x.reshape(x.shape[1:])


_RESNET = {
  "norm1": ("norm_0", "norm"),
  "conv1": ("conv_0", "conv"),
  "time_emb_proj": ("modulation", "dense"),
  "norm2": ("norm_1", "norm"),
  "conv2": ("conv_1", "conv"),
  "conv_shortcut": ("shortcut", "conv"),
}
_ATTENTION = {
  "group_norm": ("norm", "norm"),
  "norm_cross": ("text_norm", "norm"),
  "to_q": ("query", "dense"),
  "to_k": ("key", "dense"),
  "to_v": ("value", "dense"),
  "add_k_proj": ("text_key", "dense"),
  "add_v_proj": ("text_value", "dense"),
  "to_out.0": ("out", "dense"),
}
_SINGLE = {
  "conv_in": ("stem", "conv"),
  "time_embedding.linear_1": ("conditioning/time_mlp/dense_0", "dense"),
  "time_embedding.linear_2": ("conditioning/time_mlp/dense_1", "dense"),
  "class_embedding.linear_1": ("conditioning/aug_level_mlp/dense_0", "dense"),
  "class_embedding.linear_2": ("conditioning/aug_level_mlp/dense_1", "dense"),
  "encoder_hid_proj": ("conditioning/text_projection", "dense"),
  "add_embedding.norm1": ("conditioning/text_pooling/norm_0", "norm"),
  "add_embedding.pool.q_proj": ("conditioning/text_pooling/query", "dense"),
  "add_embedding.pool.k_proj": ("conditioning/text_pooling/key", "dense"),
  "add_embedding.pool.v_proj": ("conditioning/text_pooling/value", "dense"),
  "add_embedding.proj": ("conditioning/text_pooling/out", "dense"),
  "add_embedding.norm2": ("conditioning/text_pooling/norm_1", "norm"),
  "conv_norm_out": ("head/norm", "norm"),
  "conv_out": ("head/conv", "conv"),
}
_WEIGHT = {
  "conv": ("kernel", convolution),
  "dense": ("kernel", rules.transpose),
  "norm": ("scale", rules.same),
}


_BACK = {
  "conv": lambda x: x.transpose(3, 2, 0, 1),
  "dense": rules.transpose,
  "norm": rules.same,
}
_POSITION = "conditioning/text_pooling/bias"


def source_name(target: str, levels: int) -> tuple[str, rules.Transform]:
  """diffusers' name of one of our parameters, and how to turn it back."""
  if target == _POSITION:
    return "add_embedding.pool.positional_embedding", lambda x: x[None]
  path, _, leaf = target.rpartition("/")
  names = {ours: (theirs, kind) for theirs, (ours, kind) in _SINGLE.items()}
  prefix = ""
  if path not in names:
    block, _, path = path.partition("/")
    prefix, table_ = _block(block, levels)
    names = {ours: (theirs, kind) for theirs, (ours, kind) in table_.items()}
  theirs, kind = names[path]
  if leaf == "bias":
    return f"{prefix}{theirs}.bias", rules.same
  return f"{prefix}{theirs}.weight", _BACK[kind]


def _block(name: str, levels: int) -> tuple[str, dict[str, tuple[str, str]]]:
  """diffusers' prefix of one of our blocks, and the table of its layers."""
  tables = {"block": _RESNET, "attention": _ATTENTION, "resample": _RESNET}
  match = re.fullmatch(r"([a-z]+)_(?:(\d+)_)?([a-z]+)(?:_(\d+))?", name)
  side, level, kind, index = match.groups()
  if side == "mid":
    prefix = "mid_block."
  else:
    place = int(level) if side == "down" else levels - 1 - int(level)
    prefix = f"{side}_blocks.{place}."
  theirs = {"block": "resnets", "attention": "attentions"}
  called = theirs.get(kind, f"{side}samplers")
  return f"{prefix}{called}.{index or 0}.", tables[kind]


def _layer(source: str, target: str, kind: str) -> tuple[rules.Rule, ...]:
  """Weight and bias of a layer; `source` is a regex, `target` its template."""
  leaf, transform = _WEIGHT[kind]
  return (
    rules.Rule(rf"{source}\.weight", f"{target}/{leaf}", transform),
    rules.Rule(rf"{source}\.bias", f"{target}/bias"),
  )


def _group(
  source: str, target: str, names: dict[str, tuple[str, str]]
) -> tuple[rules.Rule, ...]:
  """The layers of a block."""
  return tuple(
    rule
    for theirs, (ours, kind) in names.items()
    for rule in _layer(
      rf"{source}\.{theirs.replace('.', '[.]')}", f"{target}/{ours}", kind
    )
  )


def _level(side: str, index: int, level: int) -> tuple[rules.Rule, ...]:
  """One entry of down_blocks or up_blocks."""
  source, target = rf"{side}_blocks\.{index}", f"{side}_{level}"
  return (
    *_group(rf"{source}\.resnets\.(\d+)", rf"{target}_block_\1", _RESNET),
    *_group(
      rf"{source}\.attentions\.(\d+)", rf"{target}_attention_\1", _ATTENTION
    ),
    *_group(rf"{source}\.{side}samplers\.0", f"{target}_resample", _RESNET),
  )


@functools.cache
def table(levels: int) -> tuple[rules.Rule, ...]:
  """The rules for a U-Net of so many levels."""
  single = tuple(
    rule
    for theirs, (ours, kind) in _SINGLE.items()
    for rule in _layer(theirs.replace(".", "[.]"), ours, kind)
  )
  position = rules.Rule(
    r"add_embedding\.pool\.positional_embedding",
    "conditioning/text_pooling/bias",
    _first,
  )
  sides = tuple(
    rule
    for level in range(levels)
    for rule in (
      *_level("down", level, level),
      *_level("up", levels - 1 - level, level),
    )
  )
  middle = (
    *_group(r"mid_block\.resnets\.(\d+)", r"mid_block_\1", _RESNET),
    *_group(r"mid_block\.attentions\.0", "mid_attention", _ATTENTION),
  )
  return (*single, position, *sides, *middle)
