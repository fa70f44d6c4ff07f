"""Hugging Face folders (config.json, safetensors) -> our text encoders.

`model_type` in config.json says which family; each family is a table of rules
and a function from config to network. Nothing is read before names and shapes
have been found to fit, and then each tensor once, in a stream.

  read:  folder -> Source      names, shapes, config
  build: Source -> Loaded      network, parameters, fingerprint
  load:  both

A `Source` may come from elsewhere: from_t5x shows a T5X checkpoint as one.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import arrays as types
from imagen_jax.core import errors, tree
from imagen_jax.nn import int8
from imagen_jax.weights import (
  hf_bert,
  hf_clip,
  hf_t5,
  hf_writer,
  placement,
  readers,
  rules,
)
from imagen_jax.weights.tensors import Tensor


class Family(NamedTuple):
  """How a kind of network is taken over."""

  rules: tuple[rules.Rule, ...]
  module: Callable[..., nn.Module]  # (config, *, dtype)


class Source(NamedTuple):
  """A checkpoint under Hugging Face names, not yet read."""

  tensors: Mapping[str, Tensor]
  config: dict
  what: str  # its path, for errors


class Loaded(NamedTuple):
  """A network with its parameters, and what they were made from."""

  module: nn.Module
  params: types.Params
  fingerprint: str  # of the values as they were stored; see placement
  config: dict


FAMILIES: dict[str, Family] = {
  "bert": Family(hf_bert.RULES, hf_bert.module),
  "clip": Family(hf_clip.RULES, hf_clip.module),
  "clip_text_model": Family(hf_clip.RULES, hf_clip.module),
  "t5": Family(hf_t5.RULES, hf_t5.module),
  "mt5": Family(hf_t5.RULES, hf_t5.module),
  "umt5": Family(hf_t5.PER_LAYER_RULES, hf_t5.module),
}


def load(
  folder: str | os.PathLike,
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  weights: int8.Weights = "float",
  sharding: placement.Sharding | None = None,
) -> Loaded:
  """The encoder of a Hugging Face folder, computing in `dtype`.

  Parameters are kept in `param_dtype`, or in int8 (T5 alone), and lie where
  `sharding` says of a slash name and shape.
  """
  return build(
    read(folder),
    dtype=dtype,
    param_dtype=param_dtype,
    weights=weights,
    sharding=sharding,
  )


def read(folder: str | os.PathLike) -> Source:
  """Names and shapes of a folder, and its config."""
  folder = os.fspath(folder)
  config = readers.read_json(os.path.join(folder, "config.json"))
  return Source(readers.open_folder(folder), config, folder)


def build(
  source: Source,
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  weights: int8.Weights = "float",
  sharding: placement.Sharding | None = None,
) -> Loaded:
  """Reads the tensors of a source into its network."""
  network = module(source, dtype=dtype)
  if weights == "int8" and not hasattr(network, "weights"):
    raise errors.BadInput(
      f"{source.what} is a {source.config['model_type']} network, which has no"
      " int8 weights; use weights='float'."
    )
  shapes = _shapes(network)
  params, fingerprint = placement.place(
    _plan(source, shapes),
    source.tensors,
    shapes,
    dtype=param_dtype,
    weights=weights,
    sharding=sharding,
  )
  if weights == "int8":
    network = network.clone(weights=weights)
  expected = source.config.get(hf_writer.FINGERPRINT, fingerprint)
  if fingerprint != expected:
    raise errors.CheckpointError(
      f"{source.what} is corrupt: its tensors have fingerprint"
      f" {fingerprint[:12]}..., config.json says {expected[:12]}...; fetch or"
      " import it again."
    )
  return Loaded(network, params, fingerprint, source.config)


def module(source: Source, *, dtype: DTypeLike = jnp.float32) -> nn.Module:
  """The network of a source."""
  return _family(source).module(source.config, dtype=dtype)


def first_layers(source: Source, layers: int) -> Source:
  """A BERT without the layers after its first `layers`, 0 or more."""
  config, family = source.config, source.config.get("model_type")
  have = config.get("num_hidden_layers", 0)
  if family != "bert" or not 0 <= layers <= have:
    raise errors.BadInput(
      f"{layers} layers of {source.what}, a {family} of {have}; choose 0 to"
      f" {have} layers of a BERT."
    )

  def is_kept(name: str) -> bool:
    found = re.search(r"encoder\.layer\.(\d+)\.", name)
    return found is None or int(found[1]) < layers

  tensors = {n: x for n, x in source.tensors.items() if is_kept(n)}
  return source._replace(
    tensors=tensors, config=config | {"num_hidden_layers": layers}
  )


def used(source: Source) -> dict[str, Tensor]:
  """The tensors that the network takes, by their own names."""
  planned = _plan(source, _shapes(module(source))).values()
  return {p.source: source.tensors[p.source] for p in planned}


def _family(source: Source) -> Family:
  kind = source.config.get("model_type")
  if kind not in FAMILIES:
    raise errors.BadInput(
      f"{source.what} has model_type={kind!r}; known are {', '.join(FAMILIES)}."
    )
  return FAMILIES[kind]


def _plan(
  source: Source, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, rules.Planned]:
  return rules.plan(
    _family(source).rules,
    source.tensors,
    placement.unstacked(shapes),
    what=source.what,
  )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
  """Our parameters' shapes by slash name."""
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  variables = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  return {n: x.shape for n, x in tree.flatten(variables["params"]).items()}
