"""Flat, noise, not finite, or an image; and how samples are drawn."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, images
from imagen_jax.health import samples
from tests import image_sets, tiny_cascade

PHOTOS = images.from_uint8(
  np.stack([image_sets.photo(32, 32, seed=i) for i in range(4)])
)
NOISE = np.random.default_rng(0).normal(0, 0.5, (4, 32, 32, 3))
FLAT = np.broadcast_to(np.float32([0.5, -0.5, 0.0]), (4, 32, 32, 3))


@pytest.mark.parametrize(
  ("x0", "level", "said"),
  [
    (PHOTOS, "ok", "0 are noise"),
    (NOISE.clip(-1, 1).astype(np.float32), "warning", "only noise: 0 of 4"),
    (FLAT, "warning", "one colour: 4 of 4"),
    (np.concatenate([PHOTOS[:3], FLAT[:1]]), "ok", "1 of 4 are of one colour"),
  ],
)
def test_what_is_seen(x0, level, said):
  found = samples.judge(x0, "raw")
  assert found.level == level and said in found.said
  assert found.check == "raw samples" and "guess" in found.said


def test_an_image_of_nan_is_a_problem():
  found = samples.judge(np.where(PHOTOS > 0.9, np.nan, PHOTOS), "EMA")
  assert found.level == "problem" and found.error is errors.NonFinite


def test_neighbours_of_a_ramp_correlate_and_of_stripes_oppose():
  ramp = np.linspace(-1, 1, 32)[None, None, :, None] * np.ones((1, 8, 1, 3))
  stripes = np.sign(np.sin(np.pi * (np.arange(32) + 0.5)))
  stripes = stripes[None, None, :, None] * np.ones((1, 8, 1, 3))
  assert samples._neighbours(ramp.astype(np.float32))[0] > 0.9
  assert samples._neighbours(stripes.astype(np.float32))[0] == -1


def test_it_draws_from_the_parameters_in_few_steps():
  cascade, params = tiny_cascade.in_memory()
  stage, settings = cascade.stages[1], cascade.settings[1]
  cond = {
    "text_emb": jnp.ones((2, 4, 8)),
    "text_mask": jnp.ones((2, 4), bool),
    "x_lr": jnp.zeros((2, 16, 16, 3)),
  }
  many, few = (dataclasses.replace(settings, steps=n) for n in (20, 8))
  first = samples.draw(stage, params["sr"], cond, many)
  assert first.shape == (2, 32, 32, 3) and np.abs(first).max() <= 1
  np.testing.assert_array_equal(
    first, samples.draw(stage, params["sr"], cond, few)
  )
  other = samples.draw(stage, params["sr"], cond, few, seed=1)
  assert np.abs(first - other).max() > 1e-3


def test_the_sheet_has_raw_beside_ema():
  sheet = samples.sheet(PHOTOS, np.full_like(PHOTOS, np.nan), ["a fox"] * 4)
  assert sheet.dtype == np.uint8 and sheet.shape[0] > 4 * 32
  assert len(np.unique(sheet)) > 50
