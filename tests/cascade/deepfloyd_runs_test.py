"""Whole guided runs of DeepFloyd IF's stages, against diffusers' pipelines.

golden/deepfloyd/runs.npz holds runs of tiny stages with all their noise: of
IFPipeline, IFSuperResolutionPipeline and IFInpaintingPipeline in float32, and
the first two again in float64.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import runner
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.diffusion import editing, sampling, schedules
from imagen_jax.weights import from_deepfloyd
from tests import deepfloyd_files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/deepfloyd/runs.npz"
KEYS = rng.keys_for(jax.random.key(0), "images", jnp.arange(2))
# Of oracles: 5e-4 in float32, 1e-8 in float64.
LIMITS = {"float32": 5e-4, "float64": 1e-8}


@pytest.fixture
def quick_compiles():
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


@functools.cache
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def last(name, dtype):
  """A golden array, channels last."""
  x = golden()[name]
  if x.ndim >= 4:
    x = np.moveaxis(x, -3, -1)
  return jnp.asarray(x, dtype)


def stage_of(number, dtype="float32"):
  module = from_deepfloyd.module(deepfloyd_files.source(number), dtype=dtype)
  return stage_lib.Stage(
    name="base",
    module=module,
    resolution=32 if number == 2 else 16,
    low_resolution=8 if number == 2 else None,
    text_width=48,
    schedule=schedules.cosine_1000_logsnr,
    discrete=True,
  )


def settings_of(number, **changes):
  options = {
    "steps": 8 if number == 2 else 10,
    "spacing": "leading",
    "guidance_weight": 4.0 if number == 2 else 7.0,
    "percentile": 95.0,
    "threshold_cap": 1.0 if number == 2 else 1.5,
    "learned_variance": True,
    "aug_level": 0.25 if number == 2 else 0.0,
  }
  return sampling.SamplerSettings(**options | changes)


def text(dtype):
  return {
    "text_emb": last("prompt_embeds", dtype),
    "text_mask": jnp.ones((2, 77), bool),
    "null_text_emb": last("negative_prompt_embeds", dtype),
  }


def run(monkeypatch, number, name, dtype, settings):
  """Our images of a golden run, with its noise."""
  noise = last(f"{name}_noise", dtype)
  monkeypatch.setattr(sampling, "_step_noise", lambda keys, i, shape: noise[i])
  start = last(f"{name}_initial_noise", dtype)
  monkeypatch.setattr(sampling, "_normal", lambda keys, shape: start)
  x_lr = None
  if number == 2:
    added = last(f"{name}_augmentation_noise", dtype)
    monkeypatch.setattr(stage_lib, "_normal", lambda keys, shape: added)
    x_lr = last(f"{name}_low_res", dtype)
  stage = stage_of(number, dtype)
  stage_lib.check(stage)
  stage_lib.check_settings(stage, settings)
  sample = jax.jit(
    functools.partial(stage_lib.sample, stage, settings=settings)
  )
  params = deepfloyd_files.params(number, dtype)
  got = sample(params, text(dtype), KEYS, x_lr=x_lr)
  return np.asarray(got).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
  "dtype", ["float64", pytest.param("float32", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("number, name", [(1, "first"), (2, "second")])
def test_guided_runs(number, name, dtype, monkeypatch, quick_compiles):
  with jax.enable_x64(dtype == "float64"):
    got = run(monkeypatch, number, name, dtype, settings_of(number))
  suffix = "_f64" if dtype == "float64" else ""
  expected = np.clip(golden()[f"{name}_final{suffix}"], -1, 1)
  np.testing.assert_allclose(got, expected, rtol=0, atol=LIMITS[dtype])


@pytest.mark.nightly
def test_inpainting(monkeypatch, quick_compiles):
  """Known pixels are clean at all steps; the start is noised at the first."""
  dtype = "float32"
  noise = last("inpaint_noise", dtype)
  monkeypatch.setattr(sampling, "_step_noise", lambda keys, i, shape: noise[i])
  start = last("inpaint_initial_noise", dtype)
  monkeypatch.setattr(sampling, "_normal", lambda keys, shape: start)
  stage, settings = stage_of(1), settings_of(1, steps=8)
  x0 = last("inpaint_image", dtype)
  known = editing.Known(x0, last("inpaint_mask", dtype) > 0.5)
  rows = sampling.plan(settings, stage.schedule)
  edit = editing.keep_clean(known)
  noised = editing.noised(x0, KEYS, jnp.float32(rows.logsnr[0]))
  z = edit(noised, rows, KEYS)
  expected = last("inpaint_x_start", dtype)
  np.testing.assert_allclose(z, expected, rtol=0, atol=1e-5)
  run = runner.Run(sampling.init(KEYS, z.shape[1:], z=z), text(dtype), KEYS)
  params = deepfloyd_files.params(1, dtype)
  run = runner.advance(stage, settings, params, run, rows, edit)
  got = np.asarray(sampling.finish(run.state)).transpose(0, 3, 1, 2)
  expected = golden()["inpaint_final"]
  np.testing.assert_allclose(got, expected, rtol=0, atol=LIMITS[dtype])


def test_x_lr_is_enlarged_and_then_noised(monkeypatch):
  added = last("second_augmentation_noise", "float32")
  monkeypatch.setattr(stage_lib, "_normal", lambda keys, shape: added)
  cond = stage_lib.sampling_cond(
    stage_of(2), text("float32"), KEYS, 0.25, last("second_low_res", "float32")
  )
  np.testing.assert_array_equal(cond["aug_level"], [250, 250])
  expected = last("second_upscaled_noised", "float32")
  np.testing.assert_allclose(cond["x_lr"], expected, rtol=0, atol=2e-6)


def test_what_does_not_fit_is_refused():
  stage = stage_of(1)
  with pytest.raises(errors.BadInput, match="learned_variance is False"):
    stage_lib.check_settings(stage, settings_of(1, learned_variance=False))
  with pytest.raises(errors.BadInput, match="which has no loss here"):
    stage_lib.loss(stage, {}, {}, jax.random.key(0))
  for changes, words in (
    ({"discrete": False}, "discrete is False"),
    ({"schedule": schedules.cosine_logsnr}, "must be 'cosine_1000'"),
  ):
    wrong = type(stage)(**{**vars(stage), **changes})
    with pytest.raises(errors.BadInput, match=words):
      stage_lib.check(wrong)
