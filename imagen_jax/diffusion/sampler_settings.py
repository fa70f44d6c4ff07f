"""How to sample: steps, sampler, guidance, thresholding. Checked, hashable.

The settings of a cascade's stage (paper sections 2.2 to 2.4). Being frozen they
may be a static argument of a jitted function: equal settings compile once.
"""

import dataclasses
from typing import Literal, assert_never, get_args

import numpy as np
from jaxtyping import Float

from imagen_jax.core import errors
from imagen_jax.diffusion import (
  coefficients,
  guidance,
  process,
  spacing,
  thresholding,
)

Sampler = coefficients.Sampler
Threshold = thresholding.Threshold
GuidanceSchedule = Literal["constant", "interval", "oscillating"]


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
  """Settings of one stage; `check` says what is wrong with them."""

  steps: int = 64
  sampler: Sampler = "ancestral"
  spacing: str = "uniform"  # of the steps; one of spacing.NAMES
  guidance_weight: float = 1.0  # paper Eq. 2: 1 is off
  guidance_schedule: GuidanceSchedule = "constant"
  guidance_interval: tuple[float, float] = (0.0, 1.0)  # in t, for "interval"
  guidance_hold: int = 0  # steps at full weight before "oscillating"
  guidance_low: float = 1.0  # the lower weight of "oscillating"
  threshold: Threshold = "dynamic"
  percentile: float = 99.5  # of dynamic thresholding, in (0, 100]
  threshold_cap: float | None = None  # on its s, >= 1; DeepFloyd IF has 1.5
  gamma: float = 0.0  # ancestral variance: 0 small, 1 large
  eta: float = 0.0  # noise of DDIM: 0 none, 1 as ancestral with gamma 0
  learned_variance: bool = False  # the network's (2 gamma - 1), by pixel
  aug_level: float = 0.0  # noise on x_lr in [0, 1], super-resolution only


def check(settings: SamplerSettings) -> None:
  """Raises BadInput naming the first setting that is wrong."""
  if not isinstance(settings.steps, int) or settings.steps < 1:
    raise errors.BadInput(
      f"steps is {settings.steps}; it must be a whole number from 1 up."
    )
  coefficients.check_sampler(settings.sampler)
  spacing.check(settings.spacing, settings.steps)
  thresholding.by_name(settings.threshold, percentile=settings.percentile)
  thresholding.check_percentile(settings.percentile)
  thresholding.check_cap(settings.threshold_cap)
  process.check_gamma(settings.gamma)
  coefficients.check_eta(settings.eta)
  if not 0.0 <= settings.aug_level <= 1.0:
    raise errors.BadInput(
      f"aug_level is {settings.aug_level}; it must be in [0, 1], 0 is none."
    )
  guidance_weights(settings)


def guidance_weights(settings: SamplerSettings) -> Float[np.ndarray, "n"]:
  """The guidance weight at each step, the noisiest first."""
  name, weight = settings.guidance_schedule, settings.guidance_weight
  names = get_args(GuidanceSchedule)
  if name not in names:
    raise errors.BadInput(
      f"guidance_schedule {name!r} is unknown; use one of {', '.join(names)}."
    )
  if name == "constant":
    return guidance.weights_constant(settings.steps, weight)
  if name == "interval":
    if settings.spacing == "logsnr":
      raise errors.BadInput(
        "guidance_schedule 'interval' is of t, which spacing 'logsnr' does not"
        " know; choose another of the two."
      )
    times = spacing.times(settings.spacing, settings.steps)
    interval = tuple(settings.guidance_interval)
    return guidance.weights_interval(times, weight, interval=interval)
  if name == "oscillating":
    return guidance.weights_oscillating(
      settings.steps,
      weight,
      hold=settings.guidance_hold,
      low=settings.guidance_low,
    )
  assert_never(name)


def is_guided(settings: SamplerSettings) -> bool:
  """Whether any step needs the unconditional branch."""
  return bool(np.any(guidance_weights(settings) != 1.0))
