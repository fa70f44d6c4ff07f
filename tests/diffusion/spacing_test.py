"""Spacing of the steps: DeepFloyd IF's lists, diffusers' default, refusals."""

import json
import pathlib

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import spacing

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/deepfloyd/timesteps.json"


def test_lists_are_those_of_deepfloyd_and_diffusers():
  golden = json.loads(GOLDEN.read_text())
  for name, expected in golden["presets_descending"].items():
    assert spacing.discrete(name, len(expected)).tolist() == expected
  assert set(golden["presets_descending"]) == set(spacing.SECTIONS)
  for count, expected in golden["leading_spacing"].items():
    assert spacing.discrete("leading", int(count)).tolist() == expected


@pytest.mark.parametrize("name", spacing.NAMES)
def test_times_fall_inside_the_unit_interval(name):
  steps = sum(spacing.SECTIONS.get(name, (10,)))
  times = spacing.times(name, steps)
  assert times.shape == (steps,) and times.dtype == np.float64
  assert (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] >= 0
  assert (times[-1] == 0) == (name != "uniform")


def test_errors_name_what_is_possible():
  with pytest.raises(errors.BadInput, match="use one of uniform, leading, fas"):
    spacing.check("smart", 27)
  with pytest.raises(errors.BadInput, match="has 27 steps, and steps is 64"):
    spacing.check("smart27", 64)
  with pytest.raises(errors.BadInput, match="at most 1000"):
    spacing.check("leading", 1001)
