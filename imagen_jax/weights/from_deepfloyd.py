"""DeepFloyd IF stages I and II, as diffusers keeps them -> BaseUNet.

  read:  folder -> Source      names, shapes, configs; nothing is read yet
  build: Source -> Loaded      network, parameters, fingerprint
  load:  both

The folder is a whole pipeline's (model_index.json, unet/, scheduler/) or its
unet/ alone, with float32 or float16 safetensors, one file or shards, or an
archive of torch, which is read as data. Tensors pass through host memory one at
a time.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from imagen_jax.core import arrays as types
from imagen_jax.core import errors, tree
from imagen_jax.models import variants
from imagen_jax.weights import (
  deepfloyd_config,
  deepfloyd_names,
  placement,
  readers,
  rules,
  torch_files,
)
from imagen_jax.weights.tensors import Tensor

NETWORK = "base_unet"
STEM = "diffusion_pytorch_model"
_TORCH = (f"{STEM}.bin", f"{STEM}.fp16.bin")


class Source(NamedTuple):
  """A stage under diffusers' names, not yet read."""

  tensors: Mapping[str, Tensor]
  fields: dict[str, object]  # of BaseUNet
  text_width: int  # of the encoder's tokens
  config: dict  # unet/config.json
  scheduler: dict  # scheduler/scheduler_config.json; {} without one
  what: str  # the folder, for errors


class Loaded(NamedTuple):
  """A network with its parameters, and the fingerprint of what was stored."""

  module: nn.Module
  params: types.Params
  fingerprint: str


def load(
  folder: str | os.PathLike,
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  sharding: placement.Sharding | None = None,
) -> Loaded:
  """The U-Net of a folder, computing in `dtype`.

  Parameters are kept in `param_dtype`, and lie where `sharding` says of a slash
  name and shape.
  """
  return build(
    read(folder), dtype=dtype, param_dtype=param_dtype, sharding=sharding
  )


def read(folder: str | os.PathLike) -> Source:
  """Names, shapes and configs of a folder; BadInput for another's."""
  folder = os.fspath(folder)
  unet = os.path.join(folder, "unet")
  if not os.path.isdir(unet):
    unet = folder
  path = os.path.join(unet, "config.json")
  if not os.path.exists(path):
    raise errors.BadInput(
      f"{folder} holds no unet/config.json; give the folder of a DeepFloyd IF"
      " model, which has model_index.json and unet/."
    )
  config = readers.read_json(path)
  fields = deepfloyd_config.fields(config, path)
  tensors = _open(unet)
  beside = os.path.join(unet, "..", "scheduler", "scheduler_config.json")
  scheduler = readers.read_json(beside) if os.path.exists(beside) else {}
  width = config["encoder_hid_dim"]
  return Source(tensors, fields, width, config, scheduler, folder)


def build(
  source: Source,
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  sharding: placement.Sharding | None = None,
) -> Loaded:
  """Reads the tensors of a source into its network."""
  network = module(source, dtype=dtype)
  shapes = param_shapes(source)
  params, fingerprint = placement.place(
    plan(source, shapes),
    source.tensors,
    shapes,
    dtype=param_dtype,
    sharding=sharding,
  )
  return Loaded(network, params, fingerprint)


def module(source: Source, *, dtype: DTypeLike = jnp.float32) -> nn.Module:
  """The network of a source."""
  return variants.build(NETWORK, source.fields | {"dtype": dtype})


def plan(
  source: Source, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, rules.Planned]:
  """Where each parameter comes from; CheckpointError lists all misfits.

  `shapes` are `param_shapes(source)`, where they are known already.
  """
  table = deepfloyd_names.table(len(source.fields["channel_mult"]))
  shapes = param_shapes(source) if shapes is None else shapes
  return rules.plan(table, source.tensors, shapes, what=source.what)


def param_shapes(source: Source) -> dict[str, tuple[int, ...]]:
  """Our parameters' shapes by slash name; nothing is allocated."""
  network = module(source)
  side = 2 ** (len(network.channel_mult) - 1)
  inputs = variants.example_inputs(
    network, text_width=source.text_width, size=side, tokens=2
  )
  variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  return {n: x.shape for n, x in tree.flatten(variables["params"]).items()}


def _open(unet: str) -> dict[str, Tensor]:
  """The tensors of unet/; safetensors before archives of torch."""
  if not any(".safetensors" in name for name in os.listdir(unet)):
    for name in _TORCH:
      if os.path.exists(os.path.join(unet, name)):
        return torch_files.open_torch(os.path.join(unet, name))
  return readers.open_folder(unet, stem=STEM)
