"""CLIP as a network of features, and the embeddings of captions beside it.

Both towers of a Hugging Face folder. Embeddings are not normalised here; that
is the business of `clip_score`, in float64.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from imagen_jax.core.arrays import Params
from imagen_jax.evals import clip_input, features
from imagen_jax.text import embedding, encoders
from imagen_jax.weights import hf_clip_vision


class Clip(NamedTuple):
  """A whole CLIP, ready for images and for captions."""

  network: features.Network  # its one feature is "embedding"
  encoder: encoders.TextEncoder
  params: Params  # of the encoder
  text_projection: Float[np.ndarray, "d e"]


def load(folder: str | os.PathLike) -> Clip:
  """Both towers of a folder, with its tokenizer."""
  vision = hf_clip_vision.load(folder)
  encoder, params = encoders.load(folder)
  size = vision.module.image_size

  def apply(
    params: Params, x: Float[Array, "b h w 3"]
  ) -> dict[str, Float[Array, "b e"]]:
    return {"embedding": vision.module.apply({"params": params}, x).embedding}

  network = features.Network(
    lambda pixels: clip_input.prepare(pixels, size),
    apply,
    vision.params,
    {
      "network": f"clip, {vision.module.patch_size} of {size} pixels",
      "weights": vision.fingerprint,
      "resize": "bicubic, antialiased, middle cut out",
    },
  )
  return Clip(network, encoder, params, vision.text_projection)


def embed_texts(
  clip: Clip, captions: Sequence[str]
) -> Float[np.ndarray, "n e"]:
  """The projected state of each caption's end token; long captions are cut."""
  found = embedding.embed_rows(clip.encoder, clip.params, captions)
  ends = np.stack([row[-1] for row in found.rows])
  return ends @ clip.text_projection
