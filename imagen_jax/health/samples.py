"""What do samples look like, from raw and from EMA parameters?

A heuristic, which knows two faults of images in [-1, 1]:

  one colour   the deviation of an image's pixels is below a few levels of 255
  only noise   neighbours are not alike: the correlation of each pixel with the
               one to its right, after its image's mean colour is taken away

Noise has a correlation near 0; drawings and photos of 32 pixels a side have 0.8
and above, larger ones more. Blotches that are no image pass: look at the sheet.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import contact_sheet, errors, images, rng
from imagen_jax.core.arrays import Cond, Image, Params
from imagen_jax.diffusion import sampling
from imagen_jax.health import findings

STEPS = 8  # at most: enough to see noise from an image
_FLAT = 4 / 127.5
_ALIKE = 0.3

Images = Float[np.ndarray, "b h w 3"]


def draw(
  stage: stage_lib.Stage,
  params: Params,
  cond: Cond,
  settings: sampling.SamplerSettings,
  *,
  seed: int = 0,
) -> Images:
  """An image for each row of `cond` (with x_lr), in few steps."""
  few = dataclasses.replace(settings, steps=min(settings.steps, STEPS))
  return np.asarray(_draw(stage, few, params, cond, seed))


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  cond: Cond,
  seed: int | Int[Array, ""],
) -> Image:
  b = cond["text_emb"].shape[0]
  keys = rng.keys_for(jax.random.key(seed), "doctor", jnp.arange(b))
  text = {name: cond[name] for name in ("text_emb", "text_mask")}
  return stage_lib.sample(
    stage, params, text, keys, settings, x_lr=cond.get("x_lr")
  )


def judge(x0: Images, which: str) -> findings.Finding:
  """Whether there is anything to see."""
  check = f"{which} samples"
  if not np.isfinite(x0).all():
    return findings.problem(
      check,
      "they are not finite",
      "look at the parameters above; if those are finite, use"
      " sampler.threshold=dynamic and stage.dtype=float32",
      errors.NonFinite,
    )
  centred = x0 - x0.mean(axis=(1, 2), keepdims=True)
  deviation = np.sqrt(np.square(centred).mean(axis=(1, 2, 3)))
  flat = int((deviation < _FLAT).sum())
  alike = _neighbours(centred)
  noise = int(((alike < _ALIKE) & (deviation >= _FLAT)).sum())
  said = (
    f"{flat} of {len(x0)} are of one colour, {noise} are noise (neighbours"
    f" correlate by {alike.mean():.2f}; a guess)"
  )
  if 2 * (flat + noise) < len(x0):
    return findings.ok(check, said)
  what = "only noise" if noise >= flat else "one colour"
  return findings.warning(
    check,
    f"{what}: {said}",
    "look at the sheet; if it is so, train longer, compare raw with EMA, and"
    " see that sampler and stage.prediction are those of training",
  )


def _neighbours(centred: Images) -> Float[np.ndarray, "b"]:
  """Correlation of pixels with those beside them; 1 of an even image."""
  product = (centred[:, :, 1:] * centred[:, :, :-1]).mean(axis=(1, 2, 3))
  square = np.square(centred).mean(axis=(1, 2, 3))
  return np.where(square > 0, product / np.maximum(square, 1e-12), 1.0)


def sheet(
  raw: Images, ema: Images, captions: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
  """A row for each prompt: raw on the left, EMA on the right."""
  rows = [
    images.to_uint8(np.nan_to_num(np.stack(pair)))
    for pair in zip(raw, ema, strict=True)
  ]
  return contact_sheet.labelled(rows, [f"raw, EMA: {c}" for c in captions])
