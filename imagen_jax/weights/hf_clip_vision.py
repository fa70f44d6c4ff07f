"""Whole CLIPs of Hugging Face -> ClipVision, and the projection of texts.

Text states come from the text tower alone (`hf_clip`, `text/encoders`); what
makes them comparable with images is one matrix, which is read here. The folder
has the whole CLIP: openai/clip-vit-large-patch14 is the one that the field's
CLIP scores are of.
"""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, Float

from imagen_jax.core import arrays, errors, tree
from imagen_jax.models import clip
from imagen_jax.weights import hf_clip, placement, readers, rules

_VISION = r"vision_model\."
_LAYER = _VISION + r"encoder\.layers\.(\d+)\."
_TEXT_PROJECTION = "text_projection.weight"


def _kernel(x: np.ndarray) -> np.ndarray:
  """PyTorch's convolution weight [o i h w] -> [h w i o]."""
  return np.transpose(x, (2, 3, 1, 0))


def _tensor(name: str, target: str) -> rules.Rule:
  return rules.Rule(_VISION + rf"embeddings\.{name}", target)


RULES: tuple[rules.Rule, ...] = (
  # Left out on purpose: the other tower, and what training alone has a use for.
  rules.Rule(r"text_model\..*", None),
  rules.Rule(r"text_projection\.weight", None),
  rules.Rule(r"logit_scale", None),
  _tensor("class_embedding", "class"),
  _tensor(r"position_embedding\.weight", "position/embedding"),
  rules.Rule(_VISION + r"embeddings\.position_ids", None),
  rules.Rule(
    _VISION + r"embeddings\.patch_embedding\.weight", "patch/kernel", _kernel
  ),
  *hf_clip.norm(_VISION + "pre_layrnorm", "pre_norm"),  # so it is spelt
  *hf_clip.norm(_VISION + "post_layernorm", "norm"),
  rules.Rule(
    r"visual_projection\.weight", "projection/kernel", rules.transpose
  ),
  *hf_clip.layer(_LAYER),
)

# transformers' defaults, which a config leaves out.
_DEFAULTS = {
  "image_size": 224,
  "patch_size": 32,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}


class Loaded(NamedTuple):
  """The image tower, and what makes a text's end state an embedding."""

  module: clip.ClipVision
  params: arrays.Params
  text_projection: Float[np.ndarray, "d e"]
  fingerprint: str  # of the image tower


def load(
  folder: str | os.PathLike, *, dtype: DTypeLike = jnp.float32
) -> Loaded:
  """The image tower of a folder that holds a whole CLIP."""
  folder = os.fspath(folder)
  network = module(readers.read_json(os.path.join(folder, "config.json")))
  tensors = readers.open_folder(folder)
  if _TEXT_PROJECTION not in tensors:
    raise errors.BadInput(
      f"{folder} has no {_TEXT_PROJECTION}; give a whole CLIP, text and vision."
    )
  shapes = shapes_of(network)
  plan = rules.plan(RULES, tensors, shapes, what=folder)
  params, fingerprint = placement.place(plan, tensors, shapes, dtype=dtype)
  matrix = np.float32(tensors[_TEXT_PROJECTION].read()).T
  return Loaded(network.clone(dtype=dtype), params, matrix, fingerprint)


def module(config: dict) -> clip.ClipVision:
  """The image tower that a config.json describes."""
  vision = config.get("vision_config")
  if config.get("model_type") != "clip" or not isinstance(vision, dict):
    raise errors.BadInput(
      f"config.json has model_type={config.get('model_type')!r}; images are"
      " judged by a whole CLIP, with model_type 'clip' and a vision_config."
    )
  fields = {key: vision.get(key, default) for key, default in _DEFAULTS.items()}
  if fields["hidden_act"] not in clip.ACTIVATIONS:
    raise errors.BadInput(
      f"config.json has hidden_act={fields['hidden_act']!r}; CLIP's image tower"
      f" knows {', '.join(clip.ACTIVATIONS)}."
    )
  return clip.ClipVision(
    **fields, projection_dim=config.get("projection_dim", 512)
  )


def shapes_of(network: clip.ClipVision) -> dict[str, tuple[int, ...]]:
  """Our parameters' shapes by slash name."""
  side = network.image_size
  x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  made = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  return {name: leaf.shape for name, leaf in tree.flatten(made).items()}
