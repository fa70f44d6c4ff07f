"""Can the stage learn a few images by heart? If not, nothing else will help.

From fresh parameters, the loss on these images, at the same noise before and
after, must fall below a share of what it was, which is what an output of zero
gives. `LINES` have it out of reach of a network that scales z_t and knows no
image. Averaged over the cosine schedule, that leaves of the first loss, where
pixel values have the deviation s,

       v     x0    eps
  0.25 0.47  0.80  0.20
  0.5  0.80  0.67  0.33    the demo's images
  1    1.00  0.50  0.50

The demo's base of 32 pixels crosses the line in about 30 steps of 8 images, or
in 130 at the paper's 1e-4, where its rate is 1e-3; its SR in 60 steps of 4.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Cond, Key, Keys, Params
from imagen_jax.health import findings
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

# By weighting, which says whose error is counted.
LINES = {"v": 0.6, "eps": 0.25}
_LINE = 0.5
_EVERY = 10  # steps between two looks
_DRAWS = 8  # of noise for each image, the same at each look


class Outcome(NamedTuple):
  """Losses on the same draws, and the steps between."""

  images: int
  steps: int
  first: float
  last: float
  line: float  # below which it has learned


def run(
  stage: stage_lib.Stage,
  optimizer: optax.GradientTransformation,
  batch: Cond,
  key: Key,
  *,
  steps: int,
  progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Outcome:
  """Trains on one batch until the loss is below the line, at most `steps`."""
  train_step = jax.jit(
    step_lib.make_train_step(stage, optimizer, ema_decay=0.0),
    donate_argnums=0,
  )
  keys = rng.keys_for(key, "overfit", jnp.arange(_DRAWS))
  params = stage_lib.init(stage, rng.key_for(key, "init"))
  first = last = float(_loss(stage, params, batch, keys))
  line = first * LINES.get(stage.weighting, _LINE)
  state, done = state_lib.create(params, optimizer), 0
  while done < steps and math.isfinite(last) and last > line:
    for _ in range(min(_EVERY, steps - done)):
      state, _ = train_step(state, batch, key)
      done += 1
      progress(done, last)
    last = float(_loss(stage, state.params, batch, keys))
  return Outcome(len(batch["image"]), done, first, last, line)


def judge(outcome: Outcome) -> findings.Finding:
  """Whether the loss fell below the line."""
  images, steps, first, last, line = outcome
  said = (
    f"on {images} images the loss went from {first:.4g} to {last:.4g} in"
    f" {steps} steps; the line is {line:.4g}"
  )
  if not (math.isfinite(first) and math.isfinite(last)):
    return findings.problem(
      "overfit",
      said,
      "lower optimizer.learning_rate, or set stage.dtype=float32",
      errors.NonFinite,
    )
  if last > line:
    return findings.problem(
      "overfit",
      f"does not learn: {said}",
      "look at optimizer.learning_rate first (1e-4 to 1e-3 for Adam), then at"
      " the data above; a big network may need more --overfit_steps",
      errors.NonFinite,
    )
  return findings.ok("overfit", f"learns: {said}")


@partial(jax.jit, static_argnums=0)
def _loss(
  stage: stage_lib.Stage, params: Params, batch: Cond, keys: Keys
) -> Float[Array, ""]:
  """The mean over all draws, a batch at a time."""

  def at(key: Key) -> Float[Array, ""]:
    return stage_lib.loss(stage, params, batch, key).per_example.mean()

  return jax.lax.map(at, keys).mean()
