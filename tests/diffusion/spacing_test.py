"""Spacing of the steps: DeepFloyd IF's lists, diffusers' default, refusals."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import schedules, spacing

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/deepfloyd/timesteps.json"


def test_lists_are_those_of_deepfloyd_and_diffusers():
  golden = json.loads(GOLDEN.read_text())
  for name, expected in golden["presets_descending"].items():
    assert spacing.discrete(name, len(expected)).tolist() == expected
  assert set(golden["presets_descending"]) == set(spacing.SECTIONS)
  for count, expected in golden["leading_spacing"].items():
    assert spacing.discrete("leading", int(count)).tolist() == expected


@pytest.mark.parametrize("name", [x for x in spacing.NAMES if x != "logsnr"])
def test_times_fall_inside_the_unit_interval(name):
  steps = sum(spacing.SECTIONS.get(name, (10,)))
  times = spacing.times(name, steps)
  assert times.shape == (steps,) and times.dtype == np.float64
  assert (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] >= 0
  assert (times[-1] == 0) == (name != "uniform")


@pytest.mark.parametrize("schedule", ["cosine", "linear", "cosine_1000"])
@pytest.mark.parametrize("name", ["uniform", "logsnr", "super27"])
def test_logsnr_rises_from_noise_to_the_end_at_0(name, schedule, x64):
  function = schedules.by_name(schedule)
  steps = sum(spacing.SECTIONS.get(name, (9,)))
  logsnr = np.asarray(spacing.logsnr(name, steps, function))
  assert logsnr.shape == (steps + 1,) and logsnr.dtype == np.float64
  assert (np.diff(logsnr[:-1]) > 0).all() and logsnr[0] < -9
  assert logsnr[-1] >= logsnr[-2]
  np.testing.assert_array_equal(logsnr[-1], function(jnp.zeros(())))
  if name == "logsnr":
    np.testing.assert_allclose(np.diff(logsnr[:-1], 2), 0, atol=1e-9)
    t = schedules.inverse_by_name(schedule)(jnp.asarray(logsnr[[0, -2]]))
    np.testing.assert_allclose(t, [0.995, 0.005], rtol=0, atol=1e-9)
  else:
    times = jnp.asarray(spacing.times(name, steps))
    np.testing.assert_array_equal(logsnr[:-1], function(times))


def test_one_step_even_in_logsnr_begins_with_noise(x64):
  logsnr = spacing.logsnr("logsnr", 1, schedules.cosine_logsnr)
  expected = schedules.cosine_logsnr(jnp.asarray([0.995, 0.0]))
  np.testing.assert_allclose(logsnr, expected, rtol=1e-12)


def test_errors_name_what_is_possible():
  with pytest.raises(errors.BadInput, match="use one of uniform, logsnr, lea"):
    spacing.check("smart", 27)
  with pytest.raises(errors.BadInput, match="has 27 steps, and steps is 64"):
    spacing.check("smart27", 64)
  with pytest.raises(errors.BadInput, match="at most 1000"):
    spacing.check("leading", 1001)
