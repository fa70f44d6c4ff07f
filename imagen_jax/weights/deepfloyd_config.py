"""unet/config.json of DeepFloyd IF -> the fields of BaseUNet, and back.

What the config may say is written down here key by key: what varies between
the models is read, all else has one value that the network can be, and is
refused otherwise. Keys that came after the first files (2023) may be absent.
"""

from collections.abc import Mapping

from imagen_jax.core import errors

CLASS = "UNet2DConditionModel"
_RESNET_DOWN = "ResnetDownsampleBlock2D"
_ATTENTION_DOWN = "SimpleCrossAttnDownBlock2D"
_UP = {
  _RESNET_DOWN: "ResnetUpsampleBlock2D",
  _ATTENTION_DOWN: "SimpleCrossAttnUpBlock2D",
}

# Keys that every config has, and that differ between the models.
_READ = (
  "addition_embed_type_num_heads",
  "attention_head_dim",
  "block_out_channels",
  "cross_attention_dim",
  "down_block_types",
  "encoder_hid_dim",
  "in_channels",
  "layers_per_block",
  "norm_eps",
  "resnet_out_scale_factor",
  "sample_size",
  "up_block_types",
)
# Keys with one value only; where two are listed, the first is IF's.
_FIXED: dict[str, tuple[object, ...]] = {
  "act_fn": ("gelu",),
  "addition_embed_type": ("text",),
  "center_input_sample": (False,),
  "class_embed_type": (None, "timestep"),
  "class_embeddings_concat": (False,),
  "conv_in_kernel": (3,),
  "conv_out_kernel": (3,),
  "cross_attention_norm": ("group_norm",),
  "flip_sin_to_cos": (True,),
  "freq_shift": (0,),
  "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn",),
  "norm_num_groups": (32,),
  "only_cross_attention": (False,),
  "out_channels": (6,),
  "resnet_time_scale_shift": ("scale_shift",),
}
# The same for keys that a config may lack.
_OPTIONAL: dict[str, tuple[object, ...]] = {
  "addition_time_embed_dim": (None,),
  "attention_type": ("default",),
  "dropout": (0, 0.0),
  "encoder_hid_dim_type": ("text_proj", None),
  "mid_block_only_cross_attention": (None, False),
  "num_attention_heads": (None,),
  "num_class_embeds": (None,),
  "projection_class_embeddings_input_dim": (None,),
  "reverse_transformer_layers_per_block": (None,),
  "time_cond_proj_dim": (None,),
  "time_embedding_act_fn": (None, "gelu"),
  "time_embedding_type": ("positional",),
  "timestep_post_act": (None,),
}
# Without effect on these blocks, or read below.
_OTHER = (
  "downsample_padding",
  "dual_cross_attention",
  "mid_block_scale_factor",
  "resnet_skip_time_act",
  "time_embedding_dim",
  "transformer_layers_per_block",
  "upcast_attention",
  "use_linear_projection",
)


def fields(config: Mapping[str, object], what: str) -> dict[str, object]:
  """BaseUNet's fields, as a stage's config holds them; `what` is for errors."""
  _check(config, what)
  channels = list(config["block_out_channels"])
  sizes = [config["sample_size"] >> level for level in range(len(channels))]
  attended = [
    size
    for size, kind in zip(sizes, config["down_block_types"], strict=True)
    if kind == _ATTENTION_DOWN
  ]
  layers = config["layers_per_block"]
  return {
    "embed_dim": channels[0],
    "image_size": config["sample_size"],
    "channel_mult": [width // channels[0] for width in channels],
    "num_res_blocks": layers if isinstance(layers, int) else list(layers),
    "attn_resolutions": attended,
    "text_cross_attn_res": attended,
    "per_head_channels": config["attention_head_dim"],
    "feature_pooling_type": "class_token",
    "low_resolution_cond": config["in_channels"] == 6,
    "cond_embed_dim": config.get("time_embedding_dim") or 4 * channels[0],
    "text_embed_dim": config["cross_attention_dim"],
    "activation": "gelu",
    "norm_epsilon": config["norm_eps"],
    "residual_divisor": float(config["resnet_out_scale_factor"]),
    "text_norm": "group",
    "text_input_norm": False,
    "mask_text": False,
    "pooling_heads": config["addition_embed_type_num_heads"],
    "time_input": "step",
    "learned_variance": True,
  }


def config(fields: Mapping[str, object], text_width: int) -> dict[str, object]:
  """A config.json that `fields` reads as these fields."""
  mult, layers = fields["channel_mult"], fields["num_res_blocks"]
  sizes = [fields["image_size"] >> level for level in range(len(mult))]
  down = [
    _ATTENTION_DOWN if size in fields["attn_resolutions"] else _RESNET_DOWN
    for size in sizes
  ]
  second, scale = fields["low_resolution_cond"], fields["residual_divisor"]
  return {key: values[0] for key, values in _FIXED.items()} | {
    "_class_name": CLASS,
    "addition_embed_type_num_heads": fields["pooling_heads"],
    "attention_head_dim": fields["per_head_channels"],
    "block_out_channels": [fields["embed_dim"] * m for m in mult],
    "class_embed_type": "timestep" if second else None,
    "cross_attention_dim": fields["text_embed_dim"],
    "down_block_types": down,
    "encoder_hid_dim": text_width,
    "encoder_hid_dim_type": "text_proj",
    "in_channels": 6 if second else 3,
    "layers_per_block": layers if isinstance(layers, int) else list(layers),
    "mid_block_scale_factor": scale,
    "norm_eps": fields["norm_epsilon"],
    "resnet_out_scale_factor": scale,
    "resnet_skip_time_act": second,
    "sample_size": fields["image_size"],
    "time_embedding_act_fn": "gelu" if second else None,
    "time_embedding_dim": fields["cond_embed_dim"],
    "up_block_types": [_UP[kind] for kind in reversed(down)],
  }


def _check(config: Mapping[str, object], what: str) -> None:
  """Raises BadInput for a network that BaseUNet is not."""
  if config.get("_class_name", CLASS) != CLASS:
    raise _other(what, "_class_name", config["_class_name"], CLASS)
  needed = (*_READ, *_FIXED)
  if missing := [key for key in needed if key not in config]:
    raise errors.BadInput(
      f"{what} lacks {', '.join(missing)}; give the unet/ of a DeepFloyd IF"
      " model."
    )
  known = {*needed, *_OPTIONAL, *_OTHER}
  if unknown := sorted(
    key for key in config if key not in known and not key.startswith("_")
  ):
    raise errors.BadInput(
      f"{what} has {unknown[0]}={config[unknown[0]]!r}, which no DeepFloyd IF"
      " model has; a network with it is not known here."
    )
  for key, values in (_FIXED | _OPTIONAL).items():
    if config.get(key, values[0]) not in values:
      raise _other(what, key, config[key], " or ".join(map(repr, values)))
  _check_blocks(config, what)
  _check_together(config, what)


def _check_blocks(config: Mapping[str, object], what: str) -> None:
  down, up = config["down_block_types"], config["up_block_types"]
  for kind in down:
    if kind not in _UP:
      raise _other(
        what, "down_block_types", kind, f"{_RESNET_DOWN} or {_ATTENTION_DOWN}"
      )
  mirrored = [_UP[kind] for kind in reversed(down)]
  if list(up) != mirrored:
    raise _other(what, "up_block_types", list(up), mirrored)
  channels, layers = config["block_out_channels"], config["layers_per_block"]
  count = len(channels)
  if len(down) != count or not isinstance(layers, int | list | tuple):
    raise _other(what, "down_block_types", down, f"{count} blocks")
  if not isinstance(layers, int) and len(layers) != count:
    raise _other(what, "layers_per_block", layers, f"{count} numbers")
  heads = config["attention_head_dim"]
  for width, kind in zip(channels, down, strict=True):
    if width % channels[0] or width % 32:
      raise _other(
        what, "block_out_channels", width, f"multiples of {channels[0]}, of 32"
      )
    if kind == _ATTENTION_DOWN and width % heads:
      raise _other(what, "attention_head_dim", heads, f"a divisor of {width}")


def _check_together(config: Mapping[str, object], what: str) -> None:
  """Keys that say one thing twice."""
  low_resolution = config["class_embed_type"] == "timestep"
  wanted = 6 if low_resolution else 3
  if config["in_channels"] != wanted:
    raise _other(what, "in_channels", config["in_channels"], wanted)
  scale = config["resnet_out_scale_factor"]
  middle = config.get("mid_block_scale_factor", 1)
  if middle != scale:
    raise _other(what, "mid_block_scale_factor", middle, scale)
  # The activation of the embedding comes once, or in each block: all the same.
  once = config.get("time_embedding_act_fn")
  skipped = config.get("resnet_skip_time_act", False)
  if skipped != (once is not None):
    raise _other(
      what, "resnet_skip_time_act", skipped,
      f"{once is not None} beside time_embedding_act_fn={once!r}",
    )  # fmt: skip


def _other(
  what: str, key: str, given: object, expected: object
) -> errors.BadInput:
  return errors.BadInput(
    f"{what} has {key}={given!r}, expected {expected}; a network with it is"
    " not known here."
  )
