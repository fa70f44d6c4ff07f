"""Sample grids while training: an evaluator for the loop.

One row a prompt, from the EMA parameters, with fixed keys, so that the pictures
of two steps differ by training alone. A super-resolution stage enlarges x_lr of
held images and shows it beside. What is drawn is measured too, where a measure
is given: it is not drawn twice.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Int

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import images, rng
from imagen_jax.core.arrays import Cond, Image, Params
from imagen_jax.diffusion import sampling
from imagen_jax.train.state import TrainState

# (x0, cond) -> numbers for the row of a step
Measure: TypeAlias = Callable[[Image, Cond], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class SampleGrid:
  """Draws `samples/STEP.png` from fixed conditioning `cond` (with x_lr)."""

  stage: stage_lib.Stage
  cond: Cond
  settings: sampling.SamplerSettings
  every: int
  columns: int = 4
  seed: int = 0
  measures: Sequence[Measure] = ()

  def __call__(
    self, state: TrainState, step: int, workdir: epath.Path
  ) -> dict[str, float | np.ndarray]:
    x0 = _draw(
      self.stage, self.settings, state.ema_params, self.cond, self.seed
    )
    shown = [np.asarray(x0)]
    if "x_lr" in self.cond:
      size = (x0.shape[1], x0.shape[2])
      shown.insert(0, images.upsample_bilinear(self.cond["x_lr"], size))
    pixels = images.to_uint8(np.concatenate(shown))
    sheet = images.grid(pixels, self.columns)
    images.write_png(workdir / "samples" / f"{step:08d}.png", sheet)
    row: dict[str, float | np.ndarray] = {"samples": sheet}
    for measure in self.measures:
      row |= measure(x0, self.cond)
    return row


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  cond: Cond,
  seed: int | Int[Array, ""],
) -> Image:
  b = cond["text_emb"].shape[0]
  keys = rng.keys_for(jax.random.key(seed), "image", jnp.arange(b))
  text = {name: cond[name] for name in ("text_emb", "text_mask")}
  return stage_lib.sample(
    stage, params, text, keys, settings, x_lr=cond.get("x_lr")
  )
