"""Images of one stage under any settings, compiled as seldom as possible.

What of the settings is a number (guidance weights, steps, aug_level, the
coefficients) is an argument of the compiled network, so that a sweep over
guidance weights compiles it once. Image i depends on keys[i] and its own
conditioning alone, and is the one that `pipeline.chunks` draws.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.cascade import runner
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.core.arrays import Keys, Params
from imagen_jax.diffusion import sampler_settings, sampling
from imagen_jax.evals import sweeps


class Asked(NamedTuple):
  """What is drawn: text, keys and, for super-resolution, small images."""

  text_emb: Float[np.ndarray, "n l d"]
  text_mask: Bool[np.ndarray, "n l"]
  keys: Keys
  x_lr: Float[np.ndarray, "n h w c"] | None = None


def draw(
  stage: stage_lib.Stage,
  params: Params,
  settings: sampling.SamplerSettings,
  asked: Asked,
  *,
  batch_size: int,
) -> Float[np.ndarray, "n h w 3"]:
  """x0 in [-1, 1] of all that is asked; the last batch is filled up."""
  if (asked.x_lr is None) != (stage.low_resolution is None):
    raise errors.BadInput(
      f"stage {stage.name!r} takes"
      f" {'no' if stage.low_resolution is None else 'a'} smaller image; draw"
      " the stage before it first, and it alone."
    )
  plans = runner.groups(stage, settings)
  program = _program(settings)
  made = []
  n = len(asked.text_emb)
  for start in range(0, n, batch_size):
    rows = np.minimum(np.arange(start, start + batch_size), n - 1)
    cond = {
      "text_emb": jnp.asarray(asked.text_emb[rows]),
      "text_mask": jnp.asarray(asked.text_mask[rows]),
    }
    x_lr = None if asked.x_lr is None else jnp.asarray(asked.x_lr[rows])
    run = runner.begin(stage, settings.aug_level, cond, asked.keys[rows], x_lr)
    for part in plans:
      run = runner.advance(stage, program, params, run, part)
    x = np.asarray(sampling.finish(run.state), np.float32)
    made.append(x[: n - start])
  return np.concatenate(made)


def _program(
  settings: sampling.SamplerSettings,
) -> sampling.SamplerSettings:
  """Equal for all settings that one compiled program serves."""
  return sampling.SamplerSettings(
    sampler=settings.sampler,
    threshold=settings.threshold,
    percentile=settings.percentile,
    threshold_cap=settings.threshold_cap,
    learned_variance=settings.learned_variance,
    eta=float(settings.eta > 0.0),
    guidance_weight=2.0 if sampler_settings.is_guided(settings) else 1.0,
  )


@runtime_checkable
class Metric(Protocol):
  """Images in [-1, 1] and their prompts -> numbers, whichever they are."""

  def __call__(
    self, x: Float[np.ndarray, "n h w 3"], prompts: Sequence[str]
  ) -> sweeps.Scores: ...


def measure(
  stage: stage_lib.Stage,
  params: Params,
  settings: sampling.SamplerSettings,
  asked: Asked,
  prompts: Sequence[str],
  metric: Metric,
  *,
  batch_size: int,
) -> sweeps.Measure:
  """What a sweep calls: a point's settings over the stage's own, its scores."""

  def at(point: sweeps.Point) -> sweeps.Scores:
    new = changed(settings, point)
    x = draw(stage, params, new, asked, batch_size=batch_size)
    if not np.isfinite(x).all():
      raise errors.NonFinite(
        f"stage {stage.name!r} makes images that are not finite at {point}."
      )
    return metric(x, prompts)

  return at


def changed(
  settings: sampling.SamplerSettings, point: sweeps.Point
) -> sampling.SamplerSettings:
  """The settings with some fields replaced, checked."""
  new = dataclasses.replace(settings, **point)
  sampling.check(new)
  return new
