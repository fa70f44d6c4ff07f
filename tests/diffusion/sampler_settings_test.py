"""Sampler settings: weights of each step, hashing, messages."""

import dataclasses

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import sampler_settings, sampling

Settings = sampler_settings.SamplerSettings


def test_the_weights_of_each_schedule():
  settings = Settings(
    steps=4,
    guidance_weight=5.0,
    guidance_interval=(0.4, 0.8),
    guidance_hold=1,
    guidance_low=2.0,
  )
  expected = {
    "constant": [5.0, 5.0, 5.0, 5.0],
    "interval": [1.0, 5.0, 5.0, 1.0],
    "oscillating": [5.0, 2.0, 5.0, 2.0],
  }
  for name, weights in expected.items():
    changed = dataclasses.replace(settings, guidance_schedule=name)
    actual = sampler_settings.guidance_weights(changed)
    np.testing.assert_array_equal(actual, weights)
    assert sampler_settings.is_guided(changed)


def test_an_interval_is_of_the_times_wherever_they_lie():
  settings = Settings(
    steps=27,
    spacing="fast27",
    guidance_weight=5.0,
    guidance_schedule="interval",
    guidance_interval=(0.0, 0.2),
  )
  weights = sampler_settings.guidance_weights(settings)
  # Ten of the 27 steps are in the first 200 of 1,000.
  np.testing.assert_array_equal(weights, [1.0] * 17 + [5.0] * 10)


def test_guided_only_where_a_weight_is_not_one():
  assert not sampler_settings.is_guided(Settings())
  assert sampler_settings.is_guided(Settings(guidance_weight=1.0 + 1e-9))
  never = Settings(
    guidance_weight=9.0,
    guidance_schedule="interval",
    guidance_interval=(0.0, 0.0),
  )
  assert not sampler_settings.is_guided(never)


def test_equal_settings_are_one_key_and_one_class():
  assert hash(Settings(steps=3)) == hash(Settings(steps=3))
  assert Settings(steps=3) != Settings(steps=4)
  assert sampling.SamplerSettings is Settings


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 0}, "steps is 0; it must be a whole number from 1 up"),
    ({"steps": 2.5}, "steps is 2.5"),
    ({"sampler": "euler"}, "use one of ancestral, ddim, dpm_solver_pp"),
    ({"threshold": "clip"}, "use one of none, static, dynamic"),
    ({"percentile": 0.0}, r"percentile is 0.0; it must be in \(0, 100\]"),
    ({"percentile": 100.5, "threshold": "none"}, "percentile is 100.5"),
    ({"threshold_cap": 0.9}, "threshold_cap is 0.9; it must be at least 1"),
    ({"gamma": 1.5}, r"gamma is 1.5; it must be in \[0, 1\]"),
    ({"eta": -0.5}, r"eta is -0.5; it must be in \[0, 1\]"),
    ({"aug_level": -0.1}, r"aug_level is -0.1; it must be in \[0, 1\]"),
    ({"guidance_weight": float("inf")}, "guidance_weight is inf"),
    ({"guidance_schedule": "on"}, "use one of constant, interval, oscillating"),
    (
      {"guidance_schedule": "interval", "guidance_interval": (0.9, 0.1)},
      "0 <= low <= high <= 1",
    ),
    (
      {"guidance_schedule": "interval", "guidance_interval": (0.1,)},
      r"interval is \(0.1,\)",
    ),
    (
      {"guidance_schedule": "interval", "spacing": "logsnr"},
      "of t, which spacing 'logsnr' does not know",
    ),
    ({"guidance_schedule": "oscillating", "guidance_hold": -1}, "hold is -1"),
  ],
)
def test_bad_settings(changes, message):
  # Past the type hook of the tests, as an untyped caller would come.
  settings = Settings()
  for name, value in changes.items():
    object.__setattr__(settings, name, value)
  with pytest.raises(errors.BadInput, match=message):
    sampler_settings.check(settings)
  sampler_settings.check(Settings())
