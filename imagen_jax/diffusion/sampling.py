"""Sampling as one `lax.scan`: predict, guide, threshold, step; in that order.

  z at t = 1 is N(0, I); t falls to 0, evenly (Appendix A) or as `spacing` says.
  At each step
    output  = denoise_fn(z_t, logsnr_t, cond), guided by Eq. 2
    x0      = threshold(x0 of output)
    z_s     = step(z_t, x0), whose eps is the one x0 implies
  and the last step returns x0.

With a learned variance (Nichol & Dhariwal 2021, Eq. 15) the network outputs v
beside eps: an ancestral step's gamma is (v + 1) / 2 at each pixel, unguided.

Example i depends on keys[i] and its own conditioning alone. Coefficients of all
steps are computed before the scan, in float64: the schedule is known. `sample`
is the whole; `init`, `plan` and `advance` are its parts, to act between groups
of steps: JAX's persistent cache keeps no program with a callback (`progress`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from imagen_jax.core import errors, precision, rng
from imagen_jax.core.arrays import Cond, Image, Keys
from imagen_jax.diffusion import (
  coefficients,
  guidance,
  losses,
  parameterization,
  sampler_settings,
  schedules,
  spacing,
  steps,
  thresholding,
)

SamplerSettings = sampler_settings.SamplerSettings
check = sampler_settings.check


@runtime_checkable
class Progress(Protocol):
  """Told how many steps have begun, 1 to settings.steps."""

  def __call__(self, step: int) -> None: ...


class State(NamedTuple):
  """What one step hands to the next."""

  z: Image  # z_t; after the last step x0
  x0: Image  # the x0_hat of the step before, for what looks back
  x0_prev: Image  # that of two steps before


class Plan(NamedTuple):
  """Numbers of each step, the noisiest first; a slice is some of the steps."""

  step: Int[Array | np.ndarray, "n"]
  logsnr: Float[Array | np.ndarray, "n"]
  logsnr_next: Float[Array | np.ndarray, "n"]  # inf after the last: x0
  guidance_weight: Float[Array | np.ndarray, "n"]
  log_std_range: Float[Array | np.ndarray, "n"]  # of a learned variance
  coefficients: coefficients.Coefficients  # of arrays [n]


# (z after a step, the step's row of the plan, keys of the examples) -> z. A
# pytree: its arrays are arguments of the program, its function is a part of it.
Edit: TypeAlias = jax.tree_util.Partial


class Trajectory(NamedTuple):
  """Every step of a sampling run, before the last clip to [-1, 1]."""

  z: Float[Array, "n b h w c"]  # after each step
  x0: Float[Array, "n b h w c"]  # guided and thresholded, at each step


def plan(
  settings: SamplerSettings, schedule: schedules.Schedule, *, first: int = 0
) -> Plan:
  """The numbers of all steps, computed at trace time in float64 numpy.

  Without the `first` of them the run begins later, at a z_t that is given.
  """
  check(settings)
  n = settings.steps
  gamma = 0.0 if settings.learned_variance else settings.gamma

  @jax.jit  # one small program, where op by op would be thirty
  def numbers() -> tuple[
    Float[Array, "m"], coefficients.Coefficients, Float[Array, "k"]
  ]:
    logsnr = spacing.logsnr(settings.spacing, n, schedule)[first:]
    rows = coefficients.table(
      logsnr, sampler=settings.sampler, gamma=gamma, eta=settings.eta
    )
    return logsnr, rows, coefficients.log_std_range(logsnr)

  with jax.ensure_compile_time_eval(), jax.enable_x64(True):
    logsnr, rows, log_std_range = jax.tree.map(np.asarray, numbers())
  weights = sampler_settings.guidance_weights(settings)
  return Plan(
    step=np.arange(first, n, dtype=np.int32),
    logsnr=logsnr[:-1],
    logsnr_next=np.append(logsnr[1:-1], np.inf),
    guidance_weight=weights[first:],
    coefficients=rows,
    log_std_range=log_std_range,
  )


def init(
  keys: Keys, shape: tuple[int, int, int], *, z: Image | None = None
) -> State:
  """Noise at t = 1, that of example i from keys[i]; or a given z."""
  if z is None:
    z = _normal(rng.each_key_for(keys, "init"), shape)
  return State(z, x0=jnp.zeros_like(z), x0_prev=jnp.zeros_like(z))


def _step_noise(
  keys: Keys, step: Int[Array, ""], shape: tuple[int, int, int]
) -> Image:
  return _normal(rng.each_key_for(keys, "step", step), shape)


def _normal(keys: Keys, shape: tuple[int, int, int]) -> Image:
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def _bind(
  denoise_fn: losses.DenoiseFn,
  cond: Cond,
  uncond: Cond | None,
  *,
  prediction: parameterization.Prediction,
  settings: SamplerSettings,
) -> Callable[[Image, Float[Array, ""], Float[Array, ""]], tuple]:
  """A function (z_t, logsnr, weight) -> guided and thresholded x0, gamma."""
  threshold = thresholding.by_name(
    settings.threshold,
    percentile=settings.percentile,
    cap=settings.threshold_cap,
  )
  guided = sampler_settings.is_guided(settings)
  if guided:
    # One call on the batch [cond; uncond].
    uncond = guidance.null_text(cond) if uncond is None else uncond
    cond = jax.tree.map(lambda *two: jnp.concatenate(two), cond, uncond)

  def predict(
    z_t: Image, logsnr: Float[Array, ""], weight: Float[Array, ""]
  ) -> tuple[Image, Image | None]:
    inputs = jnp.concatenate([z_t, z_t]) if guided else z_t
    levels = jnp.broadcast_to(logsnr, inputs.shape[:1])
    (output,) = precision.at_least_float32(denoise_fn(inputs, levels, cond))
    gamma = None  # but with a learned variance
    if settings.learned_variance:
      output, v = jnp.split(output, 2, axis=-1)
      gamma = 0.5 * (v[: z_t.shape[0]] + 1.0)  # of the conditional half
    if guided:
      output = guidance.combine(*jnp.split(output, 2), weight)
    x0, _ = parameterization.to_x0_eps(
      output, z_t, levels[: z_t.shape[0]], prediction=prediction
    )
    return threshold(x0).astype(z_t.dtype), gamma

  return predict


def advance(
  denoise_fn: losses.DenoiseFn,
  state: State,
  cond: Cond,
  keys: Keys,
  rows: Plan,
  *,
  prediction: parameterization.Prediction,
  settings: SamplerSettings,
  uncond: Cond | None = None,
  progress: Progress | None = None,
  trajectory: bool = False,
  edit: Edit | None = None,
) -> tuple[State, Trajectory | None]:
  """Takes the steps in `rows`, all or some of `plan(settings, ...)`.

  `edit(z, row, keys)` is what goes on in place of z after each step.
  """
  predict = _bind(
    denoise_fn, cond, uncond, prediction=prediction, settings=settings
  )
  noisy = coefficients.draws_noise(settings.sampler, eta=settings.eta)
  looks_back = coefficients.looks_back(settings.sampler)

  def body(carry: State, row: Plan) -> tuple[State, Trajectory | None]:
    if progress is not None:
      jax.debug.callback(lambda step: progress(int(step) + 1), row.step)
    x0, gamma = predict(carry.z, row.logsnr, row.guidance_weight)
    noise = None
    if noisy:
      noise = _step_noise(keys, row.step, x0.shape[1:])
      if gamma is not None and settings.sampler == "ancestral":
        noise = noise * jnp.exp(gamma * row.log_std_range)
    z = steps.apply(
      row.coefficients,
      carry.z,
      x0,
      x0_prev=carry.x0 if looks_back > 0 else None,
      x0_prev2=carry.x0_prev if looks_back > 1 else None,
      noise=noise,
    )
    if edit is not None:
      z = edit(z, row, keys)
    return State(z, x0, carry.x0), Trajectory(z, x0) if trajectory else None

  (wide,) = precision.at_least_float32(state.z)
  return jax.lax.scan(body, state, _as_numbers(rows, wide.dtype))


def _as_numbers(rows: Plan, dtype: DTypeLike) -> Plan:
  numbers = jax.tree.map(
    lambda x: jnp.asarray(x, dtype), rows._replace(step=None)
  )
  return numbers._replace(step=jnp.asarray(rows.step, jnp.int32))


def sample(
  denoise_fn: losses.DenoiseFn,
  cond: Cond,
  keys: Keys,
  *,
  shape: tuple[int, int, int],
  schedule: schedules.Schedule,
  prediction: parameterization.Prediction,
  settings: SamplerSettings,
  uncond: Cond | None = None,
  progress: Progress | None = None,
) -> Image:
  """x0 in [-1, 1]; `shape` is (h, w, c) and `uncond` defaults to no text."""
  _check_batch(cond, keys)
  rows = plan(settings, schedule)
  state, _ = advance(
    denoise_fn,
    init(keys, shape),
    cond,
    keys,
    rows,
    prediction=prediction,
    settings=settings,
    uncond=uncond,
    progress=progress,
  )
  return finish(state)


def finish(state: State) -> Image:
  """The x0 of a state after the last step, clipped to [-1, 1]."""
  return jnp.clip(state.z, -1.0, 1.0)


def sample_trajectory(
  denoise_fn: losses.DenoiseFn,
  cond: Cond,
  keys: Keys,
  *,
  shape: tuple[int, int, int],
  schedule: schedules.Schedule,
  prediction: parameterization.Prediction,
  settings: SamplerSettings,
  uncond: Cond | None = None,
) -> Trajectory:
  """As `sample`, with z and x0 of every step; the last z is x0."""
  _check_batch(cond, keys)
  _, trajectory = advance(
    denoise_fn,
    init(keys, shape),
    cond,
    keys,
    plan(settings, schedule),
    prediction=prediction,
    settings=settings,
    uncond=uncond,
    trajectory=True,
  )
  return trajectory


def _check_batch(cond: Cond, keys: Keys) -> None:
  for name, value in cond.items():
    if value.shape[0] != keys.shape[0]:
      raise errors.BadInput(
        f"{name} has {value.shape[0]} examples and there are "
        f"{keys.shape[0]} keys; give one key for each example."
      )
