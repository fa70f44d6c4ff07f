"""Named networks: the paper's sizes, small ones for tests, and the demo's.

Each is a plain dict of the network's fields (names of Appendix F) with the
exact number of its parameters for text_emb of width `text_width`. `make` builds
a module, `parameter_count` counts from shapes and allocates nothing.

The paper says 400M for SR1024, yet gives it the 600M network's table without
self-attention: that is 577,616,515 parameters, `sr1024_400m` here.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.core import errors, tree
from imagen_jax.models import base_unet, efficient_unet
from imagen_jax.nn import unet_blocks

NETWORKS: dict[str, type[nn.Module]] = {
  "base_unet": base_unet.BaseUNet,
  "efficient_unet": efficient_unet.EfficientUNet,
}


class Variant(NamedTuple):
  """A named network."""

  network: str  # a key of NETWORKS
  fields: dict[str, object]
  parameters: int  # exact, for text_emb of width `text_width`
  text_width: int = 4096  # T5-XXL; 384 is MiniLM


def _levels(
  channels: tuple[int, ...],
  num_res_blocks: tuple[int, ...],
  *,
  self_attention: bool = True,
) -> tuple[dict[str, object], ...]:
  """Levels of stride 2, with text (and self-attention) at the last."""
  rows = zip(channels, num_res_blocks, strict=True)
  last = len(channels) - 1
  return tuple(
    {
      "channels": width,
      "strides": (2, 2),
      "kernel_size": (3, 3),
      "num_res_blocks": count,
      "self_attention": self_attention and level == last,
      "text_cross_attention": level == last,
      "num_attention_heads": 8,
    }
    for level, (width, count) in enumerate(rows)
  )


# Appendix F.2 and F.3: one table, F.3 without self-attention.
_F2 = {"blocks": _levels((128, 256, 512, 1024), (2, 4, 8, 8))}
_F3 = {
  "blocks": _levels((128, 256, 512, 1024), (2, 4, 8, 8), self_attention=False)
}
_SMALL_SR = {
  "blocks": _levels((32, 64, 96, 128), (1, 1, 2, 2)),
  "cond_embed_dim": 128,
  "text_embed_dim": 128,
}

VARIANTS: dict[str, Variant] = {
  # The base at the paper's sizes (Appendix F.1; 300M to 2B in Fig. A.13b).
  "base_2b": Variant("base_unet", {"embed_dim": 512}, 2_271_821_827),
  "base_1b": Variant(
    "base_unet",
    {"embed_dim": 352, "per_head_channels": 32},  # 64 does not divide 3 * 352
    1_075_782_147,
  ),
  "base_500m": Variant("base_unet", {"embed_dim": 256}, 570_273_795),
  "base_300m": Variant("base_unet", {"embed_dim": 192}, 321_649_667),
  # Widths between and below.
  "base_384": Variant("base_unet", {"embed_dim": 384}, 1_279_637_507),
  "base_128": Variant("base_unet", {"embed_dim": 128}, 143_730_691),
  "base_64": Variant("base_unet", {"embed_dim": 64}, 36_516_867),
  "base_32": Variant(
    "base_unet", {"embed_dim": 32, "per_head_channels": 32}, 9_424_387
  ),
  # Super-resolution (Appendix F.2, F.3), and what the paper leaves open.
  "sr256_600m": Variant("efficient_unet", _F2, 586_013_315),
  "sr1024_400m": Variant("efficient_unet", _F3, 577_616_515),
  "sr256_add_skips": Variant(
    "efficient_unet", _F2 | {"skip_merge": "add"}, 582_570_883
  ),
  "sr256_inner_1": Variant(
    "efficient_unet", _F2 | {"inner_mult": 1}, 573_420_163
  ),
  "sr256_emb_1024": Variant(
    "efficient_unet",
    _F2 | {"inner_mult": 1, "cond_embed_dim": 1024},
    507_091_587,
  ),
  "sr256_emb_512": Variant(
    "efficient_unet",
    _F2 | {"inner_mult": 1, "cond_embed_dim": 512},
    476_286_595,
  ),
  "sr1024_emb_512": Variant(
    "efficient_unet",
    _F3 | {"inner_mult": 1, "cond_embed_dim": 512},
    472_088_195,
  ),
  "sr_tiny": Variant("efficient_unet", _SMALL_SR, 4_032_995),
  # The demo's, for MiniLM.
  "demo_base_64": Variant(
    "base_unet",
    {"embed_dim": 32, "per_head_channels": 32},
    8_941_827,
    text_width=384,
  ),
  "demo_base_32": Variant(
    "base_unet",
    {
      "embed_dim": 32,
      "image_size": 32,
      "channel_mult": (1, 2, 4, 6),
      "num_res_blocks": 1,
      "attn_resolutions": (8,),
      "text_cross_attn_res": (16, 8, 4),
      "per_head_channels": 32,
    },
    8_633_763,
    text_width=384,
  ),
  "demo_sr_256": Variant(
    "efficient_unet", _SMALL_SR, 3_550_435, text_width=384
  ),
}


def make(name: str, overrides: Mapping[str, object] | None = None) -> nn.Module:
  """The module of a named network, some of its fields replaced."""
  if name not in VARIANTS:
    raise errors.BadInput(
      f"unknown network {name!r};{_near(name, VARIANTS)} use one of"
      f" {sorted(VARIANTS)}."
    )
  variant = VARIANTS[name]
  return build(variant.network, variant.fields | dict(overrides or {}))


def build(network: str, fields: Mapping[str, object]) -> nn.Module:
  """A module from plain fields: lists become tuples, blocks `Block`s."""
  if network not in NETWORKS:
    raise errors.BadInput(
      f"unknown network {network!r}; use one of {sorted(NETWORKS)}."
    )
  module = NETWORKS[network]
  known = {field.name for field in dataclasses.fields(module) if field.init}
  known -= {"parent", "name"}
  for name in fields:
    if name not in known:
      raise errors.BadInput(
        f"{network} has no field {name!r};{_near(name, known)} its fields are"
        f" {sorted(known)}."
      )
  plain = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
  if "blocks" in plain:
    plain["blocks"] = tuple(
      row
      if isinstance(row, unet_blocks.Block)
      else unet_blocks.Block.from_dict(row)
      for row in plain["blocks"]
    )
  return module(**plain)


def example_inputs(
  module: nn.Module, *, text_width: int, size: int = 64, tokens: int = 8
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes that `module.init` can be traced with, at batch 1."""
  struct = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  inputs = (
    struct((1, size, size, module.out_channels)),
    struct((1,)),
    struct((1, tokens, text_width)),
    jax.ShapeDtypeStruct((1, tokens), bool),
  )
  if not module.low_resolution_cond:
    return inputs
  low = struct((1, size // 4, size // 4, module.out_channels))
  return (*inputs, low, struct((1,)))


def parameter_count(module: nn.Module, *, text_width: int) -> int:
  """The number of parameters, from shapes alone."""
  inputs = example_inputs(module, text_width=text_width)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return tree.count(shapes["params"])


def _near(name: str, known: Mapping[str, object] | set[str]) -> str:
  close = difflib.get_close_matches(name, list(known), n=2)
  return f" did you mean {' or '.join(map(repr, close))}?" if close else ""
