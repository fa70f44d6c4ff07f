"""Editing: what is exact, and what inpainting of a known law comes to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, rng
from imagen_jax.diffusion import editing, sampling, schedules

SHAPE = (4, 4, 3)
SAMPLERS = ("ancestral", "dpm_solver_pp")
LOGSNR = schedules.cosine_logsnr
Settings = functools.partial(sampling.SamplerSettings, threshold="none")


def of_one_colour(z_t, logsnr, cond):
  """The best x0 where an image has one value c ~ N(0, 1), in all places.

  E[c | z] = alpha sum(z) / (sigma^2 + alpha^2 n)
  """
  del cond
  alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
  n = z_t[0].size
  total = jnp.sum(z_t, axis=(1, 2, 3))
  c = alpha * total / (sigma * sigma + alpha * alpha * jnp.float32(n))
  return jnp.broadcast_to(c[:, None, None, None], z_t.shape)


def clipped(z_t, logsnr, cond):
  """An x0 that is z_t but for its range."""
  del logsnr, cond
  return jnp.clip(z_t, -1.0, 1.0)


def wavy(z_t, logsnr, cond):
  """A made-up x0 that depends on all it is given."""
  level = jax.nn.sigmoid(-logsnr)[:, None, None, None]
  text = cond["text_emb"][:, :1, None, :1]
  return jnp.cos(3.0 * z_t + text) * (1.2 - level)


def keys_of(b):
  return rng.keys_for(jax.random.key(0), "images", jnp.arange(b))


def cond_of(b):
  emb = np.random.default_rng(0).normal(size=(b, 3, 5))
  mask = jnp.ones((b, 3), bool)
  return {"text_emb": jnp.asarray(emb, jnp.float32), "text_mask": mask}


def pictures(b):
  draw = np.random.default_rng(1)
  return jnp.asarray(draw.uniform(-1, 1, (b, *SHAPE)), jnp.float32)


def left_half(b):
  """True where the left half is to be painted again."""
  mask = np.zeros((b, *SHAPE[:2], 1), bool)
  mask[:, :, :2] = True
  return jnp.asarray(mask)


@functools.partial(jax.jit, static_argnames=("fn", "settings", "count"))
def image_to_image(fn, x0, keys, cond, *, settings, count):
  """The last `count` steps, from the image; count > 0."""
  rows = sampling.plan(settings, LOGSNR, first=settings.steps - count)
  z = editing.noised(x0, keys, jnp.float32(rows.logsnr[0]))
  state = sampling.init(keys, SHAPE, z=z)
  state, _ = sampling.advance(
    fn, state, cond, keys, rows, prediction="x0", settings=settings
  )
  return sampling.finish(state)


@functools.partial(jax.jit, static_argnames=("fn", "settings", "resample"))
def inpaint(fn, known, keys, cond, *, settings, resample=1):
  rows = editing.plan(sampling.plan(settings, LOGSNR), resample=resample)
  state, _ = sampling.advance(
    fn,
    sampling.init(keys, SHAPE),
    cond,
    keys,
    rows,
    prediction="x0",
    settings=settings,
    edit=editing.keep(known, resample=resample),
  )
  return sampling.finish(state)


@functools.partial(jax.jit, static_argnames=("fn", "settings"))
def without_image(fn, keys, cond, *, settings):
  return sampling.sample(
    fn,
    cond,
    keys,
    shape=SHAPE,
    schedule=LOGSNR,
    prediction="x0",
    settings=settings,
  )


def test_the_first_state_has_the_law_of_q():
  x0 = jnp.full((1, 64, 64, 3), jnp.float32(0.7))
  level = LOGSNR(jnp.asarray([0.6]))
  (z,) = jax.jit(editing.noised)(x0, keys_of(1), level[0])
  alpha, sigma = schedules.logsnr_to_alpha_sigma(level)
  mean, std = float(alpha[0]) * 0.7, float(sigma[0])
  assert abs(float(z.mean()) - mean) < 4 * std / 110
  assert abs(float(z.std()) / std - 1) < 4 / 150


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_is_how_far_it_goes_from_the_image(sampler):
  settings = Settings(steps=40, sampler=sampler)
  x0, keys, cond = pictures(2), keys_of(2), cond_of(2)
  far = [
    np.abs(
      image_to_image(clipped, x0, keys, cond, settings=settings, count=count)
      - x0
    ).mean()
    for count in (1, 8, 40)
  ]
  assert far[0] < 0.05 < far[1] < far[2], far


def test_all_steps_are_sampling_but_for_a_trace_of_the_image():
  """alpha at t = 1 is 5e-5."""
  settings = Settings(steps=5, guidance_weight=2.0)
  keys, cond = keys_of(2), cond_of(2)
  alone = without_image(wavy, keys, cond, settings=settings)
  run = functools.partial(
    image_to_image, wavy, pictures(2), keys, cond, settings=settings
  )
  np.testing.assert_allclose(run(count=5), alone, rtol=0, atol=2e-2)
  assert np.abs(run(count=3) - alone).max() > 0.1


@pytest.mark.parametrize(("strength", "count"), [
  (0.0, 0), (0.001, 1), (0.5, 5), (0.94, 9), (0.96, 10), (1.0, 10),
])  # fmt: skip
def test_strength_is_a_share_of_the_steps(strength, count):
  assert editing.steps_taken(strength, 10) == count


@pytest.mark.parametrize(
  ("sampler", "resample"), [("ancestral", 3), ("dpm_solver_pp", 1)]
)
def test_known_pixels_are_exact_and_others_are_not(sampler, resample):
  settings = Settings(steps=4, sampler=sampler)
  known = editing.Known(pictures(2), left_half(2))
  made = inpaint(
    wavy, known, keys_of(2), cond_of(2), settings=settings, resample=resample
  )
  np.testing.assert_array_equal(made[:, :, 2:], known.x0[:, :, 2:])
  assert np.abs(made - known.x0)[:, :, :2].min() > 1e-6


def test_with_nothing_known_it_is_sampling():
  settings = Settings(steps=4, guidance_weight=2.0)
  keys, cond = keys_of(2), cond_of(2)
  known = editing.Known(pictures(2), jnp.ones((2, *SHAPE[:2], 1), bool))
  made = inpaint(wavy, known, keys, cond, settings=settings)
  alone = without_image(wavy, keys, cond, settings=settings)
  np.testing.assert_allclose(made, alone, rtol=0, atol=1e-6)
  thrice = inpaint(wavy, known, keys, cond, settings=settings, resample=3)
  assert np.abs(thrice - alone).max() > 1e-3


def colour_error(sampler, resample):
  """How far what was painted is from the colour that is known."""
  b, colour = 16, 0.6
  known = editing.Known(
    jnp.full((b, *SHAPE), jnp.float32(colour)), left_half(b)
  )
  made = inpaint(
    of_one_colour, known, keys_of(b), cond_of(b),
    settings=Settings(steps=12, sampler=sampler), resample=resample,
  )  # fmt: skip
  return float(np.abs(np.asarray(made)[:, :, :2] - colour).mean())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_painted_fits_what_is_known(sampler):
  """Of an image that has one colour, half is known: so is the other half."""
  once, often = colour_error(sampler, 1), colour_error(sampler, 8)
  assert often < 0.5 * once + 0.01
  assert often < 0.1, (once, often)


def test_going_back_has_the_law_of_the_process(x64):
  """q(z_t | z_s) after q(z_s | x0) is q(z_t | x0)."""
  logsnr = LOGSNR(jnp.linspace(1.0, 0.0, 7, dtype=jnp.float64))
  alpha, sigma = map(np.asarray, schedules.logsnr_to_alpha_sigma(logsnr))
  for k in range(6):
    scale, std = editing._back(logsnr[k], logsnr[k + 1])
    np.testing.assert_allclose(scale * alpha[k + 1], alpha[k], rtol=1e-9)
    variance = (scale * sigma[k + 1]) ** 2 + std**2
    np.testing.assert_allclose(variance, sigma[k] ** 2, rtol=1e-9)


@pytest.mark.parametrize("sampler", ["dpm_solver_pp", "unipc"])
def test_steps_are_repeated_but_for_the_last(sampler):
  rows = sampling.plan(Settings(steps=6, sampler=sampler), LOGSNR)
  once, thrice = (editing.plan(rows, resample=r) for r in (1, 3))
  np.testing.assert_array_equal(once.step, rows.step)
  assert len(thrice.step) == len(set(thrice.step)) == 16
  np.testing.assert_array_equal(
    thrice.logsnr, np.repeat(rows.logsnr, [3, 3, 3, 3, 3, 1])
  )
  assert list(thrice.step[::3]) == list(range(6))
  ddim = sampling.plan(Settings(steps=6, sampler="ddim"), LOGSNR)
  for ours, theirs in zip(once.coefficients, ddim.coefficients, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
  assert np.abs(rows.coefficients.x0_prev).max() > 0.1


def test_an_image_does_not_depend_on_its_batch():
  settings = Settings(steps=3)
  known = editing.Known(pictures(3), left_half(3))
  keys, cond = keys_of(3), cond_of(3)
  together = inpaint(wavy, known, keys, cond, settings=settings, resample=2)
  one = jax.tree.map(lambda x: x[2:], (known, keys, cond))
  alone = inpaint(wavy, *one, settings=settings, resample=2)
  np.testing.assert_allclose(alone[0], together[2], rtol=0, atol=1e-6)
  assert np.abs(together[0] - together[2])[:, :2].max() > 0.01


@pytest.mark.parametrize(("strength", "resample", "message"), [
  (-0.1, 1, r"strength is -0.1; it must be in \[0, 1\]"),
  (1.1, 1, "strength is 1.1"),
  (float("nan"), 1, "strength is nan"),
  (1.0, 0, "resample is 0; it must be a whole number from 1 to 100"),
  (1.0, 101, "resample is 101"),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(strength, resample, message):
  with pytest.raises(errors.BadInput, match=message):
    editing.check(strength=strength, resample=resample)


def test_known_pixels_without_noise_are_the_image():
  x0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), "f4")
  mask = (
    jnp.arange(4)[None, :, None, None]
    < jnp.asarray([1, 3])[:, None, None, None]
  )
  known = editing.Known(x0, jnp.broadcast_to(mask, (2, 4, 4, 1)))
  rows = sampling.plan(
    sampling.SamplerSettings(steps=2), schedules.cosine_logsnr
  )
  row = jax.tree.map(lambda x: x[0], rows)
  keys = rng.keys_for(jax.random.key(0), "images", jnp.arange(2))
  got = editing.keep_clean(known)(x0 + 1, row, keys)
  np.testing.assert_array_equal(got, jnp.where(known.mask, x0 + 1, x0))
