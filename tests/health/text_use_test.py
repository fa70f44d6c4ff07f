"""Text that is read, and text that is ignored."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.health import text_use
from tests import tiny_cascade


def found(change):
  return {
    "prompt_swap/other_logsnr_-6": change,
    "prompt_swap/other_logsnr_2": change / 10,
    "prompt_swap/empty_logsnr_-6": 9.0,
  }


def test_text_that_changes_the_image_is_well():
  assert text_use.judge(found(0.5), 5000, is_base=True).level == "ok"
  assert text_use.judge(found(0.01), 5000, is_base=False).level == "ok"


def test_text_ignored_is_a_problem_of_a_base_that_was_trained():
  finding = text_use.judge(found(0.01), 5000, is_base=True)
  assert finding.level == "problem" and finding.error is errors.BadInput
  assert finding.said.startswith("text ignored")
  assert "captions" in finding.remedy and "text_drop_rate" in finding.remedy


def test_at_first_text_need_not_matter():
  finding = text_use.judge(found(0.0), 10, is_base=True)
  assert finding.level == "warning" and "not matter yet" in finding.said


def test_super_resolution_is_only_warned_of():
  finding = text_use.judge(found(0.0), 5000, is_base=False)
  assert finding.level == "warning" and "text ignored" in finding.said


def test_what_is_not_finite_says_nothing_of_text():
  assert text_use.judge(found(np.nan), 5, is_base=True).level == "skipped"


@pytest.mark.parametrize(("scale", "level"), [(1.0, "ok"), (1e-6, "problem")])
def test_it_measures_what_reaches_the_network(scale, level):
  cascade, params = tiny_cascade.in_memory()
  draw = np.random.default_rng(0)
  states = scale * draw.normal(size=(3, 4, 8))
  changes = text_use.changes(
    cascade.stages[0],
    params["base"],
    jnp.asarray(draw.uniform(-1, 1, (3, 16, 16, 3)), jnp.float32),
    {
      "text_emb": jnp.asarray(states, jnp.float32),
      "text_mask": jnp.ones((3, 4), bool),
    },
    aug_level=0.0,
  )
  assert text_use.judge(changes, 5000, is_base=True).level == level
