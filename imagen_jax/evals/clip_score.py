"""CLIP score and R-precision: do images show what their captions say?

With unit vectors f(image) and g(caption):

  cosine       f . g; the paper's axis, for ViT-L/14 about 0.2 to 0.3
  clip_score   100 max(0, f . g), as torchmetrics and others have it
  r_precision  the share of images whose own caption is nearest of `candidates`,
               the others drawn from the set (Park et al. 2021); a guess has
               1 / candidates. Captions equal to its own are no others.

Rows with rows: image i goes with caption i.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.core import errors
from imagen_jax.evals import feature_checks


def unit(x: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
  """Rows of length one, in float64."""
  x = np.float64(x)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def cosines(
  images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m e"]
) -> Float[np.ndarray, "n"]:
  """Of each image with its own caption, in [-1, 1]."""
  feature_checks.check_pair(images, texts, 1, "CLIP score")
  if len(images) != len(texts):
    raise errors.BadInput(
      f"CLIP score of {len(images)} images and {len(texts)} captions; give one"
      " caption for each image."
    )
  return (unit(images) * unit(texts)).sum(axis=1)


def found_first(
  images: Float[np.ndarray, "n e"],
  texts: Float[np.ndarray, "n e"],
  captions: Sequence[str],
  *,
  candidates: int = 100,
  seed: int = 0,
) -> Bool[np.ndarray, "n"]:
  """Whether each image's own caption is the nearest of the candidates."""
  _, kinds = np.unique(captions, return_inverse=True)
  kinds = np.asarray(kinds)
  _, first = np.unique(kinds, return_index=True)  # of each caption, one row
  if not 2 <= candidates <= len(first):
    raise errors.BadInput(
      f"R-precision of {candidates} candidates among {len(first)} different"
      f" captions; take 2 to {len(first)}."
    )
  own = cosines(images, texts)
  f, g = unit(images), unit(texts)
  found = np.zeros(len(f), bool)
  draw = np.random.default_rng(seed)
  for i in range(len(f)):
    others = first[kinds[first] != kinds[i]]
    others = draw.choice(others, candidates - 1, replace=False)
    found[i] = own[i] > (g[others] @ f[i]).max()
  return found


def rows(
  images: Float[np.ndarray, "n e"],
  texts: Float[np.ndarray, "m e"],
  captions: Sequence[str],
  *,
  candidates: int = 100,
  seed: int = 0,
) -> dict[str, Float[np.ndarray, "n"]]:
  """The three measures of each image; their means are those of the set."""
  own = cosines(images, texts)
  found = found_first(images, texts, captions, candidates=candidates, seed=seed)
  return {
    "cosine": own,
    "clip_score": 100 * np.maximum(own, 0),
    "r_precision": np.float64(found),
  }
