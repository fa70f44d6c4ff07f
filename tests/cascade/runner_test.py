"""A run of one stage, in parts, from the middle, and edited on its way."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import build
from imagen_jax.cascade import runner
from imagen_jax.diffusion import sampling
from imagen_jax.plan import hlo
from tests import tiny_cascade
from tests.train import tiny_run

STAGE = dataclasses.replace(tiny_run.STAGE, prediction="v")
SETTINGS = sampling.SamplerSettings(steps=6, sampler="ddim", threshold="static")
N = 3


@pytest.fixture(scope="module")
def given():
  """(params, cond, keys) of three images."""
  draw = np.random.default_rng(0)
  cond = {
    "text_emb": jnp.asarray(draw.normal(size=(N, 4, 8)), jnp.float32),
    "text_mask": jnp.ones((N, 4), bool),
  }
  params = tiny_cascade.random_params(STAGE)
  return params, cond, jax.random.split(jax.random.key(1), N)


def draw(given, settings=SETTINGS, *, progress=None, **start):
  return runner.draw(
    STAGE,
    settings,
    *given,
    start=runner.Start(**start),
    progress=progress,
  )


def test_it_is_the_stage_sampled_at_once(given):
  params, cond, keys = given
  sample = jax.jit(
    runner.stage_lib.sample, static_argnames=("stage", "settings")
  )
  whole = sample(STAGE, params, cond, keys, settings=SETTINGS)
  told = []
  np.testing.assert_allclose(
    draw(given, progress=told.append), whole, rtol=0, atol=1e-6
  )
  assert told == [3, 6]


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_what_begins_in_the_middle_ends_alike(given, sampler):
  params, cond, keys = given
  settings = dataclasses.replace(SETTINGS, sampler=sampler)
  whole = draw(given, settings)
  plans = runner.groups(STAGE, settings)
  run = runner.begin(STAGE, 0.0, cond, keys, None)
  run = runner.advance(STAGE, settings, params, run, plans[0])
  rest = draw(given, settings, z=run.state.z, first=3)
  np.testing.assert_array_equal(rest, whole)
  assert np.abs(draw(given, settings, z=run.state.z, first=4) - whole).max() > 0


def test_the_first_step_taken_has_none_before_it(given):
  settings = dataclasses.replace(SETTINGS, sampler="dpm_solver_pp")
  rows = sampling.plan(settings, STAGE.schedule, first=2)
  assert list(rows.step) == [2, 3, 4, 5]
  assert rows.coefficients.x0_prev[0] == 0 != rows.coefficients.x0_prev[1]
  whole = sampling.plan(settings, STAGE.schedule)
  np.testing.assert_array_equal(rows.logsnr, whole.logsnr[2:])
  np.testing.assert_array_equal(whole.logsnr[1:], whole.logsnr_next[:-1])
  assert np.isposinf(whole.logsnr_next[-1])


def products_by_place(text):
  """(before or after the loops of a program, in them): the layers' names."""
  callers, bodies, found = {}, set(), []
  for inside, line in hlo.lines(text):
    bodies |= set(re.findall(r"body=%?([\w.-]+)", line))
    for name in re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", line):
      callers[name] = inside
    if layer := re.search(r"(\w+)/dot_general", hlo.op_name(line)):
      found.append((inside, layer[1]))
  places = set(), set()
  for inside, layer in found:
    while inside not in bodies and inside in callers:
      inside = callers[inside]
    places[inside in bodies].add(layer)
  return places


def test_what_depends_on_the_text_alone_is_computed_before_the_loop(given):
  """Its keys, values and pooled states: XLA takes them out."""
  stage = build.stage(tiny_cascade.stage_configs(8)[0])
  _, cond, keys = given
  run = runner.begin(stage, 0.0, cond, keys, None)
  rows = runner.groups(stage, SETTINGS)[0]
  program = runner.advance.lower(
    stage, SETTINGS, tiny_cascade.random_params(stage), run, rows
  ).compile()
  before, inside = products_by_place(program.as_text())
  text = {"text_key", "text_value", "text_projection"}
  assert text <= before and not text & inside
  assert {"query", "key", "value"} <= inside


def _keep(known, z, row, keys):
  """The left half is `known` in the end."""
  del keys
  left = (jnp.arange(16) < 8)[None, None, :, None]
  return jnp.where(left & jnp.isinf(row.logsnr_next), known, z)


def test_an_edit_sees_every_step_and_its_arrays_are_arguments(given):
  free = draw(given)
  before = runner.advance._cache_size()
  for value in (0.25, -0.5):
    known = jnp.full((N, 16, 16, 3), value)
    kept = draw(given, edit=jax.tree_util.Partial(_keep, known))
    np.testing.assert_array_equal(kept[:, :, :8], value)
    assert np.isfinite(kept).all()
    np.testing.assert_allclose(  # Pointwise: the rest is as it was
      kept[:, :, 8:], free[:, :, 8:], rtol=0, atol=1e-5
    )
  assert runner.advance._cache_size() == before + 1


def test_an_edit_gets_the_keys_of_the_examples(given):
  @functools.partial(jax.tree_util.Partial)
  def noise(z, row, keys):
    del row
    return jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys)

  one = draw(given, edit=noise)
  params, cond, keys = given
  part = jax.tree.map(lambda x: x[1:2], cond)
  alone = runner.draw(
    STAGE, SETTINGS, params, part, keys[1:2], start=runner.Start(edit=noise)
  )
  np.testing.assert_array_equal(alone[0], one[1])
