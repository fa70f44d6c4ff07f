"""A cascade of two tiny networks, 16 to 32 pixels, with random weights.

Output layers start at zero in training; here every parameter is random, so that
the images depend on the text, on x_lr and on the noise.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import build
from imagen_jax.cascade import folder, pipeline
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.text import encoders, tokenizers

LENGTH = 24  # tokens
SAMPLERS = {
  "base": {"steps": 4, "sampler": "dpm_solver_pp", "guidance_weight": 2.0},
  "sr": {"steps": 3, "sampler": "ancestral", "aug_level": 0.1},
}
_COMMON = {
  "schedule": "cosine",
  "prediction": "v",
  "weighting": "v",
  "text_drop_rate": 0.1,
  "dtype": "float32",
}
_BASE = {
  "embed_dim": 8,
  "image_size": 16,
  "channel_mult": [1, 1],
  "num_res_blocks": 1,
  "attn_resolutions": [8],
  "text_cross_attn_res": [8],
  "per_head_channels": 8,
}
_SR = {
  "blocks": [
    {"channels": 8, "num_res_blocks": 1},
    {
      "channels": 8,
      "num_res_blocks": 1,
      "text_cross_attention": True,
      "num_attention_heads": 1,
    },
  ],
  "cond_embed_dim": 8,
  "text_embed_dim": 8,
}


def stage_configs(text_width: int) -> list[dict]:
  """`config.stage` of both stages, as plain dicts."""
  common = _COMMON | {"text_width": text_width}
  base = {
    "name": "base",
    "network": "base_unet",
    "resolution": 16,
    "low_resolution": 0,
    "fields": _BASE,
  }
  sr = {
    "name": "sr",
    "network": "efficient_unet",
    "resolution": 32,
    "low_resolution": 16,
    "fields": _SR,
  }
  return [common | base, common | sr]


@functools.cache
def random_params(stage: stage_lib.Stage, seed: int = 0):
  """Every parameter from N(0, 0.3^2)."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32),
    stage_lib.param_shapes(stage),
  )


def in_memory(
  text_width: int = 8,
) -> tuple[pipeline.Cascade, dict]:
  """(Cascade, params) whose text encoder is a name and a width alone."""
  encoder = encoders.TextEncoder(
    name="none",
    module=nn.Dense(1),
    tokenizer=tokenizers.Tokenizer(
      split=lambda texts: [tokenizers.Pieces([0], [(0, 0)]) for _ in texts],
      vocab_size=1,
      special=1,
      unknown_id=None,
      sha256="",
    ),
    max_length=LENGTH,
    width=text_width,
    fingerprint="",
  )
  stages = tuple(build.stage(config) for config in stage_configs(text_width))
  params = {stage.name: random_params(stage) for stage in stages}
  settings = tuple(build.sampler(SAMPLERS[stage.name]) for stage in stages)
  cascade = pipeline.Cascade(stages, settings, encoder)
  return cascade, jax.tree.map(jnp.asarray, params)


def infos(text_width: int = 384, encoder: str = "minilm") -> list:
  """What the files of the two stages say of themselves."""
  return [
    folder.StageInfo(
      stage=config,
      text={"encoder": encoder, "max_length": LENGTH},
      sampler=SAMPLERS[config["name"]],
      step=7,
      config_hash=f"hash of {config['name']}",
    )
    for config in stage_configs(text_width)
  ]


def write_stages(where: pathlib.Path, text_width: int = 384) -> list:
  """The stage files in a folder, without `cascade.json`; their paths."""
  where.mkdir(parents=True, exist_ok=True)
  paths = []
  for info in infos(text_width):
    params = random_params(build.stage(info.stage))
    path = where / f"{info.name}.safetensors"
    folder.save_stage(path, params, info, dtype=jnp.bfloat16)
    paths.append(path)
  return paths


def write_folder(where: pathlib.Path, text_width: int = 384) -> pathlib.Path:
  """A whole cascade folder."""
  paths = write_stages(where, text_width)
  folder.write_manifest(where, folder.from_files(paths, "tiny, random"))
  return where
