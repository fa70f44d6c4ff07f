"""Sampling: the loop again in Python, guidance, thresholds, the right law."""

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, rng
from imagen_jax.diffusion import (
  coefficients,
  guidance,
  parameterization,
  sampling,
  schedules,
  steps,
  thresholding,
)

SHAPE = (4, 4, 3)
SAMPLERS = get_args(coefficients.Sampler)
Settings = sampling.SamplerSettings


def denoise(z_t, logsnr, cond):
  """A made-up eps that depends on everything it is given."""
  level = jax.nn.sigmoid(-logsnr)[:, None, None, None]
  text = jnp.mean(cond["text_emb"], axis=(1, 2))[:, None, None, None]
  return jnp.tanh(z_t) * level + 0.3 * jnp.cos(3.0 * z_t) + text


def keys_of(b: int) -> jax.Array:
  return rng.keys_for(jax.random.key(0), "images", jnp.arange(b))


def cond_of(b: int) -> dict[str, jax.Array]:
  text_emb = np.random.default_rng(0).normal(size=(b, 3, 5))
  return {
    "text_emb": jnp.asarray(text_emb, jnp.float32),
    "text_mask": jnp.ones((b, 3), bool),
  }


def run(settings, b=3, *, function=sampling.sample, fn=denoise, **options):
  """`function` under jit, on `b` examples."""
  call = functools.partial(
    function,
    fn,
    shape=SHAPE,
    schedule=schedules.cosine_logsnr,
    prediction="eps",
    settings=settings,
    **options,
  )
  return jax.jit(call)(cond_of(b), keys_of(b))


@functools.partial(jax.jit, static_argnames="settings")
def guided_x0(z, level, cond, settings):
  output = guidance.combine(
    denoise(z, level, cond),
    denoise(z, level, guidance.null_text(cond)),
    settings.guidance_weight,
  )
  x0, _ = parameterization.to_x0_eps(output, z, level, prediction="eps")
  return thresholding.dynamic(x0, settings.percentile)


def one_step(settings, z, x0, x0_prev, x0_prev2, noise, levels):
  """z_s by the public functions; levels are those of prev2, prev, t and s."""
  if settings.sampler == "unipc":
    rows = jax.jit(coefficients.unipc)(levels[2], levels[3], *levels[1::-1])
    return steps.apply(rows, z, x0, x0_prev=x0_prev, x0_prev2=x0_prev2)
  if settings.sampler == "ancestral":
    step = functools.partial(steps.ancestral, gamma=settings.gamma)
    return jax.jit(step)(z, x0, noise, *levels[2:])
  if settings.sampler == "ddim":
    step = functools.partial(steps.ddim, eta=settings.eta)
    return jax.jit(step)(z, x0, *levels[2:], noise=noise)
  before = {"x0_prev": x0_prev, "logsnr_prev": levels[1]}
  if settings.sampler == "dpm_solver_pp":
    return jax.jit(steps.dpm_solver_pp)(z, x0, *levels[2:], **before)
  step = jax.jit(steps.sde_dpm_solver_pp)
  return step(z, x0, noise, *levels[2:], **before)


def python_loop(settings: sampling.SamplerSettings, b: int) -> np.ndarray:
  """The sampler written again, with the public one-step functions."""
  n, keys, cond = settings.steps, keys_of(b), cond_of(b)
  logsnr = np.asarray(schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, n + 1)))
  normal = jax.jit(jax.vmap(lambda key: jax.random.normal(key, SHAPE)))
  logsnr = np.append(logsnr, [-np.inf, -np.inf])  # before the first
  z = normal(rng.each_key_for(keys, "init"))
  x0_prev = x0_prev2 = jnp.zeros_like(z)
  for i in range(n):
    levels = [jnp.full(b, logsnr[j]) for j in range(i - 2, i + 2)]
    x0 = guided_x0(z, levels[2], cond, settings)
    if i == n - 1:
      return np.asarray(x0)
    noise = normal(rng.each_key_for(keys, "step", i))
    z = one_step(settings, z, x0, x0_prev, x0_prev2, noise, levels)
    x0_prev2, x0_prev = x0_prev, x0
  raise AssertionError


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_scan_is_a_python_loop(sampler):
  settings = Settings(
    steps=4,
    sampler=sampler,
    guidance_weight=3.0,
    percentile=90.0,
    gamma=0.3,
    eta=0.6,
  )
  expected = python_loop(settings, 2)
  actual = run(settings, 2)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
  other = run(dataclasses.replace(settings, guidance_weight=3.1), 2)
  assert np.max(np.abs(other - expected)) > 2e-3


@pytest.mark.parametrize("sampler", ["ancestral", "dpm_solver_pp"])
def test_an_image_does_not_depend_on_its_batch(sampler):
  settings = Settings(steps=4, sampler=sampler, guidance_weight=2.0)
  together = run(settings, 3)
  call = jax.jit(
    functools.partial(
      sampling.sample,
      denoise,
      shape=SHAPE,
      schedule=schedules.cosine_logsnr,
      prediction="eps",
      settings=settings,
    )
  )
  cond, keys = cond_of(3), keys_of(3)
  for i in (0, 2):
    alone = call(
      jax.tree.map(lambda x, i=i: x[i : i + 1], cond), keys[i : i + 1]
    )
    np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-6)
  assert np.max(np.abs(together[0] - together[2])) > 0.1


def test_eight_devices_draw_the_same_images():
  devices = jax.devices()
  assert len(devices) == 8
  settings = Settings(steps=3, guidance_weight=2.0)
  mesh = jax.sharding.Mesh(np.array(devices), ("data",))
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  call = jax.jit(
    functools.partial(
      sampling.sample,
      denoise,
      shape=SHAPE,
      schedule=schedules.cosine_logsnr,
      prediction="eps",
      settings=settings,
    )
  )
  cond, keys = cond_of(8), keys_of(8)
  actual = call(*jax.device_put((cond, keys), split))
  np.testing.assert_allclose(actual, call(cond, keys), rtol=0, atol=1e-6)


def test_jit_equals_no_jit():
  settings = Settings(steps=3, guidance_weight=2.0, sampler="dpm_solver_pp")
  eager = sampling.sample(
    denoise,
    cond_of(3),
    keys_of(3),
    shape=SHAPE,
    schedule=schedules.cosine_logsnr,
    prediction="eps",
    settings=settings,
  )
  np.testing.assert_allclose(run(settings), eager, rtol=0, atol=1e-6)


def test_weight_one_never_looks_at_the_unconditional_text():
  settings = Settings(steps=3, sampler="ddim")
  poison = jax.tree.map(jnp.zeros_like, cond_of(3))
  poison["text_emb"] = jnp.full_like(poison["text_emb"], jnp.nan)
  np.testing.assert_array_equal(run(settings, uncond=poison), run(settings))


def test_weight_one_in_the_guided_path_is_the_conditional_model():
  settings = Settings(steps=3, sampler="ddim")
  rows = sampling.plan(settings, schedules.cosine_logsnr)
  guided = dataclasses.replace(settings, guidance_weight=2.0)

  @jax.jit
  def forced(cond, keys):
    state, _ = sampling.advance(
      denoise,
      sampling.init(keys, SHAPE),
      cond,
      keys,
      rows,
      prediction="eps",
      settings=guided,
    )
    return sampling.finish(state)

  # XLA fuses the two programs differently, so the last bit may differ;
  # `combine` itself is exact, see guidance_test.
  actual = forced(cond_of(3), keys_of(3))
  np.testing.assert_allclose(actual, run(settings), rtol=0, atol=1e-6)
  assert np.max(np.abs(actual - run(guided))) > 1e-2


@pytest.mark.parametrize(
  ("changes", "calls"),
  [
    ({}, 3),
    ({"guidance_weight": 2.0}, 6),
    ({"guidance_weight": 0.0}, 6),
    ({"guidance_weight": 2.0, "guidance_schedule": "oscillating"}, 6),
    (
      {
        "guidance_weight": 2.0,
        "guidance_schedule": "interval",
        "guidance_interval": (0.0, 0.1),
      },
      3,
    ),
  ],
)
def test_the_unconditional_branch_runs_only_when_it_counts(changes, calls):
  seen = []

  def network(z_t, logsnr, cond):
    seen.append((z_t.shape[0], logsnr.shape[0], cond["text_emb"].shape[0]))
    return denoise(z_t, logsnr, cond)

  jax.eval_shape(lambda: run(Settings(steps=2, **changes), fn=network))
  assert set(seen) == {(calls, calls, calls)}


def test_a_weight_of_zero_ignores_the_text():
  settings = Settings(steps=3, guidance_weight=0.0)
  actual = run(settings)
  null = {"text_emb": jnp.zeros((3, 3, 5)), "text_mask": jnp.ones((3, 3), bool)}
  expected = sampling.sample(
    denoise,
    null,
    keys_of(3),
    shape=SHAPE,
    schedule=schedules.cosine_logsnr,
    prediction="eps",
    settings=dataclasses.replace(settings, guidance_weight=1.0),
  )
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_a_negative_prompt_replaces_no_text():
  settings = Settings(steps=3, guidance_weight=3.0)
  same = run(settings, uncond=cond_of(3))
  off = run(dataclasses.replace(settings, guidance_weight=1.0))
  np.testing.assert_allclose(same, off, rtol=0, atol=2e-5)
  assert np.max(np.abs(run(settings) - off)) > 1e-2


@pytest.mark.parametrize(
  ("sampler", "threshold"),
  zip(SAMPLERS, ("static", *["dynamic"] * 4), strict=True),
)
def test_every_guided_x0_lies_in_the_range_and_is_what_steps_use(
  sampler, threshold
):
  settings = Settings(
    steps=4, sampler=sampler, guidance_weight=9.0, threshold=threshold
  )
  z, x0 = run(settings, function=sampling.sample_trajectory)
  assert x0.shape == z.shape == (4, 3, *SHAPE)
  np.testing.assert_array_equal(np.abs(x0).max(axis=(2, 3, 4)).max(), 1.0)
  np.testing.assert_array_equal(z[-1], x0[-1])
  if sampler == "ddim":
    logsnr = schedules.cosine_logsnr(jnp.linspace(1.0, 0.0, 5))
    levels = [jnp.full(3, logsnr[i]) for i in (2, 3)]
    expected = steps.ddim(z[1], x0[2], *levels)
    np.testing.assert_allclose(z[2], expected, rtol=0, atol=1e-5)


def test_the_result_is_clipped_without_a_threshold():
  settings = Settings(steps=3, guidance_weight=9.0, threshold="none")
  assert np.max(np.abs(run(settings))) == 1.0
  loose = run(settings, function=sampling.sample_trajectory)
  assert np.max(np.abs(loose.x0)) > 2.0


def test_groups_of_steps_are_the_whole():
  settings = Settings(steps=4, sampler="dpm_solver_pp", guidance_weight=2.0)
  rows = sampling.plan(settings, schedules.cosine_logsnr)
  cond, keys = cond_of(3), keys_of(3)
  traces = []

  @jax.jit
  def advance(state, rows):
    traces.append(None)
    return sampling.advance(
      denoise, state, cond, keys, rows, prediction="eps", settings=settings
    )[0]

  state = sampling.init(keys, SHAPE)
  for group in (slice(0, 2), slice(2, 4)):
    state = advance(state, jax.tree.map(lambda x, at=group: x[at], rows))
  assert len(traces) == 1
  np.testing.assert_allclose(
    sampling.finish(state), run(settings), rtol=0, atol=1e-6
  )


def test_equal_settings_compile_once():
  traces = []

  @functools.partial(jax.jit, static_argnames="settings")
  def call(cond, keys, settings):
    traces.append(None)
    return sampling.sample(
      denoise,
      cond,
      keys,
      shape=SHAPE,
      settings=settings,
      prediction="eps",
      schedule=schedules.by_name("shifted_cosine_256"),
    )

  for _ in range(2):
    call(cond_of(2), keys_of(2), Settings(steps=2))
  assert len(traces) == 1


def test_progress_hears_every_step():
  heard = []
  settings = Settings(steps=4)
  run(settings, progress=heard.append).block_until_ready()
  jax.effects_barrier()
  assert sorted(heard) == [1, 2, 3, 4]


def gaussian_moments(
  settings: sampling.SamplerSettings, mean: float, std: float
) -> tuple[float, float]:
  """The mean and std that the steps give, followed in float64."""
  _, logsnr, *_, rows = sampling.plan(settings, schedules.cosine_logsnr)
  alpha, sigma = 1.0 / np.sqrt(1.0 + np.exp([-logsnr, logsnr]))
  gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
  # (z, x0_prev) is a linear map of the noises and 1, one column for each.
  n = settings.steps
  z, x0_prev, x0_prev2 = np.eye(n + 2)[0], np.zeros(n + 2), np.zeros(n + 2)
  for i in range(n):
    x0 = gain[i] * z
    x0[-1] += mean - gain[i] * alpha[i] * mean
    z = rows.z[i] * z + rows.x0[i] * x0 + rows.x0_prev[i] * x0_prev
    z = z + rows.x0_prev2[i] * x0_prev2
    z[i + 1] += rows.noise[i]
    x0_prev2, x0_prev = x0_prev, x0
  return z[-1], np.linalg.norm(z[:-1])


@pytest.mark.parametrize(
  ("sampler", "prediction"),
  zip(SAMPLERS, ("eps", "v", "x0", "x0", "eps"), strict=True),
)
def test_a_gaussian_is_sampled_with_its_mean_and_std(sampler, prediction):
  # Data N(0.2, 0.3^2) a pixel, whose best denoiser is known.
  mean, std, shape = 0.2, 0.3, (16, 16, 3)

  def optimal(z_t, logsnr, cond):
    alpha, sigma = parameterization.alpha_sigma(logsnr)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    x0 = mean + gain * (z_t - alpha * mean)
    return parameterization.convert(
      x0, z_t, logsnr, source="x0", destination=prediction
    )

  settings = Settings(steps=200, sampler=sampler, threshold="none")
  call = functools.partial(
    sampling.sample_trajectory,
    optimal,
    {},
    shape=shape,
    schedule=schedules.cosine_logsnr,
    prediction=prediction,
    settings=settings,
  )
  z = jax.jit(lambda keys: call(keys).z[-1])(keys_of(16))
  # Four standard errors of 12,288 pixels are 0.011 and 2.6 %.
  expected = gaussian_moments(settings, mean, std)
  np.testing.assert_allclose(z.mean(), expected[0], atol=0.011)
  np.testing.assert_allclose(z.std(), expected[1], rtol=0.026)
  # What 200 steps leave: the small variance is the slowest.
  np.testing.assert_allclose(expected[0], mean, atol=1e-3)
  tolerance = dict(zip(SAMPLERS, (0.03, 0.015, 2e-3, 8e-3, 2e-3), strict=True))
  np.testing.assert_allclose(expected[1], std, rtol=tolerance[sampler])
  flat = np.asarray(z).reshape(16, -1)
  np.testing.assert_allclose(np.corrcoef(flat)[0, 1:], 0.0, atol=0.16)


def test_steps_lie_where_spacing_says():
  settings = Settings(steps=6, sampler="dpm_solver_pp", spacing="logsnr")
  plan = sampling.plan(settings, schedules.linear_logsnr)
  np.testing.assert_allclose(np.diff(plan.logsnr, 2), 0, atol=1e-9)
  # The same h at every step but the first and the last: D = 3/2 x0 - x0_prev/2.
  ratio = plan.coefficients.x0_prev / plan.coefficients.x0
  np.testing.assert_allclose(ratio, [0, *[-1 / 3] * 4, 0], atol=1e-9)
  later = sampling.plan(settings, schedules.linear_logsnr, first=2)
  np.testing.assert_array_equal(later.logsnr, plan.logsnr[2:])


def test_float32_coefficients_come_from_float64():
  settings = Settings(steps=7, sampler="dpm_solver_pp")
  rows = sampling.plan(settings, schedules.cosine_logsnr)
  inside = []
  jax.jit(
    lambda: inside.append(sampling.plan(settings, schedules.cosine_logsnr))
  )()
  for array in jax.tree.leaves(rows)[1:]:
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
  jax.tree.map(np.testing.assert_array_equal, rows, inside[0])


def test_one_key_for_each_example():
  with pytest.raises(errors.BadInput, match="3 examples and there are 2 keys"):
    sampling.sample(
      denoise,
      cond_of(3),
      keys_of(2),
      shape=SHAPE,
      prediction="eps",
      schedule=schedules.cosine_logsnr,
      settings=Settings(steps=1),
    )
