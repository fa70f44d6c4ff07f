"""DeepFloyd IF's scheduler as our ancestral sampler, against diffusers'.

golden/deepfloyd/steps.npz holds single steps t -> prev_t of diffusers 0.42.1
(DDPMScheduler, learned_range), in float32 and the same formula in float64.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import rng
from imagen_jax.diffusion import sampling, schedules, spacing

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/deepfloyd/steps.npz"
SETTINGS = sampling.SamplerSettings(
  steps=2,
  spacing="leading",
  percentile=95.0,
  threshold_cap=1.5,
  learned_variance=True,
)
KEYS = rng.keys_for(jax.random.key(0), "images", jnp.arange(2))
TEXT = {"text_emb": jnp.ones((2, 1, 1)), "text_mask": jnp.ones((2, 1), bool)}


@functools.cache
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def step(case, dtype, monkeypatch, **changes):
  """(x0, z_s) of a golden step, by our sampler."""
  found = {
    name: golden()[f"step_{case}_{name}"]
    for name in ("t", "prev_t", "x_t", "model_output", "noise")
  }
  arrays = {
    name: jnp.asarray(x.transpose(0, 2, 3, 1), dtype)
    for name, x in found.items()
    if x.ndim == 4
  }
  last = found["prev_t"] < 0
  pair = (1, 0) if last else (found["t"], found["prev_t"])
  times = np.float64(pair) / 999
  monkeypatch.setattr(spacing, "times", lambda name, steps: times)
  monkeypatch.setattr(sampling, "_step_noise", lambda *_: arrays["noise"])
  settings = SETTINGS if not changes else type(SETTINGS)(**changes)
  rows = sampling.plan(settings, schedules.cosine_1000_logsnr)
  chosen = jax.tree.map(lambda x: x[1:] if last else x[:1], rows)
  _, trajectory = sampling.advance(
    lambda z, logsnr, cond: arrays["model_output"],
    sampling.init(KEYS, (6, 5, 3), z=arrays["x_t"]),
    TEXT,
    KEYS,
    chosen,
    prediction="eps",
    settings=settings,
    trajectory=True,
  )
  return trajectory.x0[0], trajectory.z[0]


def channels_first(x):
  return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("case", range(5))
def test_single_steps_are_those_of_diffusers(case, monkeypatch):
  with jax.enable_x64(True):
    x0, z = step(case, jnp.float64, monkeypatch)
  expected = golden()
  for name, got in (("pred_x0", x0), ("x_prev", z)):
    wanted = expected[f"step_{case}_{name}_f64"]
    np.testing.assert_allclose(
      channels_first(got), wanted, rtol=0, atol=1e-9, err_msg=name
    )
  x0, z = step(case, jnp.float32, monkeypatch)
  # diffusers' table in float32 is off at t = 1; ours is compared in float64.
  wanted = expected[f"step_{case}_x_prev_f64"]
  np.testing.assert_allclose(channels_first(z), wanted, rtol=0, atol=1e-4)


def test_a_fixed_variance_is_another(monkeypatch):
  """The bounds above tell the variances apart."""
  learned = step(1, jnp.float32, monkeypatch)[1]
  fixed = {
    name: getattr(SETTINGS, name)
    for name in ("steps", "spacing", "percentile", "threshold_cap")
  }
  outputs = golden()["step_1_model_output"]
  monkeypatch.setitem(golden(), "step_1_model_output", outputs[:, :3])
  for gamma in (0.0, 1.0):
    other = step(1, jnp.float32, monkeypatch, gamma=gamma, **fixed)[1]
    assert np.abs(other - learned).max() > 1e-2


def test_gamma_of_each_pixel_is_that_of_the_setting(monkeypatch):
  """v = 2 gamma - 1 everywhere is the sampler with that gamma."""
  fixed = {name: getattr(SETTINGS, name) for name in ("steps", "percentile")}
  outputs = golden()["step_1_model_output"]
  v = np.full_like(outputs[:, :3], -0.4)
  both = np.concatenate([outputs[:, :3], v], axis=1)
  monkeypatch.setitem(golden(), "step_1_model_output", both)
  options = fixed | {"learned_variance": True}
  learned = step(1, jnp.float32, monkeypatch, **options)[1]
  monkeypatch.setitem(golden(), "step_1_model_output", outputs[:, :3])
  same = step(1, jnp.float32, monkeypatch, **(fixed | {"gamma": 0.3}))[1]
  np.testing.assert_allclose(learned, same, rtol=0, atol=1e-6)


def test_the_table_is_that_of_deepfloyd(x64):
  abar = golden()["alphas_cumprod"]
  t = jnp.arange(1000) / 999
  logsnr = schedules.cosine_1000_logsnr(t)
  got = np.exp(np.asarray(schedules.log_alpha_squared(logsnr)))
  np.testing.assert_allclose(got, abar, rtol=1e-9)


def test_levels_are_told_as_the_nearest_step():
  steps = np.arange(1000, dtype=np.float32)
  logsnr = schedules.cosine_1000_logsnr(jnp.asarray(steps / 999))
  np.testing.assert_array_equal(schedules.cosine_1000_step(logsnr), steps)
