"""Draws of a sweep are those of the cascade, and compile once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import pipeline, runner
from imagen_jax.core import errors
from imagen_jax.diffusion import sampling
from imagen_jax.evals import bootstrap, stage_draws
from tests import tiny_cascade


@pytest.fixture(scope="module")
def cascade():
  return tiny_cascade.in_memory()


@pytest.fixture(scope="module")
def asked():
  chance = np.random.default_rng(0)
  return stage_draws.Asked(
    chance.normal(size=(3, 5, 8)).astype(np.float32),
    np.arange(5)[None] < np.array([[5], [2], [4]]),
    pipeline.image_keys(jax.random.key(1), jnp.arange(3)),
  )


def test_both_stages_are_drawn_as_the_cascade_draws_them(cascade, asked):
  made, params = cascade
  chunks = list(
    pipeline.chunks(
      made, params, asked.text_emb, asked.text_mask, asked.keys, batch_size=2
    )
  )
  for k, stage in enumerate(made.stages):
    wanted = np.concatenate([c.images for c in chunks if c.stage == k])
    found = stage_draws.draw(
      stage, params[stage.name], made.settings[k], asked, batch_size=2
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    asked = asked._replace(x_lr=wanted)


def test_weights_steps_and_levels_compile_nothing_new(cascade, asked):
  made, params = cascade
  stage, settings = made.stages[1], made.settings[1]
  asked = asked._replace(x_lr=np.zeros((3, 16, 16, 3), np.float32))

  def draw(**point):
    new = stage_draws.changed(settings, point)
    return stage_draws.draw(stage, params["sr"], new, asked, batch_size=3)

  first = draw(guidance_weight=2.0, steps=4, aug_level=0.0)
  before = runner.advance._cache_size()
  others = [
    draw(guidance_weight=5.0, steps=4, aug_level=0.0),
    draw(guidance_weight=2.0, steps=8, aug_level=0.0),
    draw(guidance_weight=2.0, steps=4, aug_level=0.3),
  ]
  assert runner.advance._cache_size() == before
  for other in others:
    assert np.abs(other - first).max() > 1e-3


@pytest.mark.parametrize(("changes", "same"), [
  ({"steps": 9, "gamma": 0.5, "guidance_weight": 5.0}, True),
  ({"eta": 0.7}, True),
  ({"eta": 0.0}, False), ({"sampler": "dpm_solver_pp"}, False),
  ({"threshold_cap": 1.5}, False), ({"learned_variance": True}, False),
])  # fmt: skip
def test_what_is_compiled_anew(changes, same):
  settings = sampling.SamplerSettings(
    sampler="ddim", eta=0.3, guidance_weight=2.0
  )
  other = stage_draws.changed(settings, changes)
  programs = {stage_draws._program(x) for x in (settings, other)}
  assert len(programs) == (1 if same else 2)


def test_a_point_is_measured_with_its_own_settings(cascade, asked):
  made, params = cascade
  settings = dataclasses.replace(made.settings[0], steps=2)
  seen = []

  def metric(x, prompts):
    seen.append((x, prompts))
    return {"mean": bootstrap.Interval(float(x.mean()), 0.0, 0.0)}

  at = stage_draws.measure(
    made.stages[0], params["base"], settings, asked, ["a", "b", "c"], metric,
    batch_size=4,
  )  # fmt: skip
  low, high = (at({"guidance_weight": w}) for w in (1.0, 4.0))
  assert low != high and seen[0][0].shape == (3, 16, 16, 3)
  assert seen[0][1] == ["a", "b", "c"]
  with pytest.raises(errors.BadInput, match="percentile"):
    at({"percentile": 0.0})


def test_small_images_go_with_the_stage(cascade, asked):
  made, params = cascade
  with pytest.raises(errors.BadInput, match="a smaller image"):
    stage_draws.draw(
      made.stages[1], params["sr"], made.settings[1], asked, batch_size=2
    )
