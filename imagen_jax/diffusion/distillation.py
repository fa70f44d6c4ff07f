"""Progressive distillation: one step of a student for two of its teacher.

A student of n steps learns, at t = i / n, the x0 that takes it by one DDIM step
to where two steps of its teacher end (Salimans and Ho 2022, Algorithm 2):

  x = teacher(z_t),  z_m = ddim(z_t, x, t -> m),      m = t - 1 / (2 n)
  y = teacher(z_m),  z_s = ddim(z_m, y, m -> s),      s = t - 1 / n
  target = (z_s - r z_t) / (alpha_s - r alpha_t),     r = sigma_s / sigma_t

The last step of a sampler returns x0 itself, so at s = 0 the target is y. The
teacher's x0 is guided and thresholded, with the weight held fixed (the first
stage of Meng et al. 2023, of one weight): the student then needs one network
evaluation a step, not two. Halving again starts from the student, unguided.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from imagen_jax.core import errors, precision, rng, shapes
from imagen_jax.core.arrays import Cond, Image, Key, Logsnr
from imagen_jax.diffusion import (
  coefficients,
  guidance,
  losses,
  parameterization,
  process,
  schedules,
  steps,
  thresholding,
)
from imagen_jax.diffusion import weighting as weighting_lib

# (z_t, logsnr) -> x0 in [-1, 1]
X0Fn: TypeAlias = Callable[[Image, Logsnr], Image]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """How the teacher samples, by DDIM; its student takes half the steps."""

  steps: int = 64
  guidance_weight: float = 1.0  # paper Eq. 2: 1 is off
  threshold: thresholding.Threshold = "dynamic"
  percentile: float = 99.5  # of dynamic thresholding, in (0, 100]


def check(teacher: Teacher) -> None:
  """Raises BadInput naming the first field that is wrong."""
  if teacher.steps < 2 or teacher.steps % 2:
    raise errors.BadInput(
      f"the teacher's steps are {teacher.steps}; a student takes half of them,"
      " so give an even number from 2 up."
    )
  guidance.weights_constant(teacher.steps, teacher.guidance_weight)
  thresholding.by_name(teacher.threshold, percentile=teacher.percentile)
  thresholding.check_percentile(teacher.percentile)


def x0_fn(
  denoise_fn: losses.DenoiseFn,
  cond: Cond,
  teacher: Teacher,
  *,
  prediction: parameterization.Prediction,
) -> X0Fn:
  """The teacher's x0, guided and thresholded as in sampling."""
  threshold = thresholding.by_name(
    teacher.threshold, percentile=teacher.percentile
  )
  guided = teacher.guidance_weight != 1.0
  if guided:
    null = guidance.null_text(cond)
    cond = jax.tree.map(lambda *two: jnp.concatenate(two), cond, null)

  def predict(z_t: Image, logsnr: Logsnr) -> Image:
    twice = lambda x: jnp.concatenate([x, x]) if guided else x  # noqa: E731
    output = denoise_fn(twice(z_t), twice(logsnr), cond)
    if guided:
      output = guidance.combine(*jnp.split(output, 2), teacher.guidance_weight)
    pair = parameterization.to_x0_eps(
      output, z_t, logsnr, prediction=prediction
    )
    return threshold(pair.x0)

  return predict


def target(
  predict: X0Fn,
  z_t: Image,
  i: Int[Array, "b"],
  *,
  student_steps: int,
  schedule: schedules.Schedule,
) -> Image:
  """The x0 that takes z_t, at t = i / student_steps, where the teacher goes.

  i is in 1..student_steps.
  """
  t = i.astype(z_t.dtype)
  logsnr_t, logsnr_m, logsnr_s = (
    schedule((t - back) / student_steps) for back in (0.0, 0.5, 1.0)
  )
  x0 = predict(z_t, logsnr_t)
  z_m = steps.ddim(z_t, x0, logsnr_t, logsnr_m)
  x0 = predict(z_m, logsnr_m)
  z_s = steps.ddim(z_m, x0, logsnr_m, logsnr_s)
  whole = coefficients.ddim(logsnr_t, logsnr_s)
  r, scale = (shapes.bcast_right(c, 4) for c in (whole.z, whole.x0))
  last = shapes.bcast_right(i == 1, 4)
  return jnp.where(last, x0, (z_s - r * z_t) / scale)


def loss(
  denoise_fn: losses.DenoiseFn,
  predict: X0Fn,
  x0: Image,
  cond: Cond,
  key: Key,
  *,
  student_steps: int,
  schedule: schedules.Schedule,
  prediction: parameterization.Prediction,
  weighting: weighting_lib.Weighting = "truncated_snr",
) -> losses.Loss:
  """The loss of each example of x0 in [-1, 1] at one of the student's times.

  No gradient reaches the teacher. `weighting` is on the error of x0, and `mse`
  is that error: what a prediction of another kind errs by depends on t.
  """
  (x0,) = precision.at_least_float32(x0)
  b = x0.shape[0]
  i = 1 + jax.random.randint(rng.key_for(key, "time"), (b,), 0, student_steps)
  eps = jax.random.normal(rng.key_for(key, "eps"), x0.shape, x0.dtype)
  logsnr = schedule(i.astype(x0.dtype) / student_steps)
  z_t = process.q_sample(x0, logsnr, eps)
  wanted = target(
    predict, z_t, i, student_steps=student_steps, schedule=schedule
  )
  output = denoise_fn(z_t, logsnr, cond)
  given = parameterization.to_x0_eps(
    output, z_t, logsnr, prediction=prediction
  ).x0
  error = given - jax.lax.stop_gradient(wanted)
  mse = shapes.mean_flat(jnp.square(error))
  return losses.Loss(weighting_lib.on_x0(weighting, logsnr) * mse, mse, logsnr)
