"""What docs/scaling.md says is what the compiler said, and it holds."""

import importlib.util
import json
import pathlib

import pytest

from imagen_jax.plan import estimate

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "docs" / "plans").glob("*.json"))


def scaling():
  spec = importlib.util.spec_from_file_location(
    "scaling", ROOT / "benchmarks" / "scaling.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def programs():
  for file in FILES:
    for row in json.loads(file.read_text())["programs"]:
      facts = estimate.from_json(row["facts"])
      yield pytest.param(facts, id=f"{file.stem}_{facts.program}")


def test_every_stage_is_planned_for_every_slice():
  told = scaling()
  expected = {f"{stage}_{chip}" for stage, chip in told.pairs()}
  assert {file.stem for file in FILES} == expected


def test_the_page_shows_what_the_files_say():
  told = scaling()
  page = told.PAGE.read_text()
  shown = page.partition(told.BEGIN)[2].partition(told.END)[0]
  assert shown == told.render()


@pytest.mark.parametrize("stage", ["base_64", "sr_256", "sr_1024"])
def test_a_config_shows_what_its_plans_say(stage):
  text = (ROOT / "configs" / f"{stage}.py").read_text()
  assert scaling().numbers(stage) + '"""' in text


def test_gpus_are_estimated_and_slices_compiled():
  compiled = {
    facts.topology.partition(":")[0]: facts.compiled is not None
    for facts in (param.values[0] for param in programs())
  }
  tpus = dict.fromkeys(("v4", "v5e", "v5p", "v6e"), True)
  assert compiled == tpus | {"gpu": False}


@pytest.mark.parametrize("facts", programs())
def test_it_fits_and_gathers_no_activation(facts: estimate.Facts):
  found = estimate.estimate(facts)
  assert found.fits
  if facts.compiled is None:
    pytest.skip("only a compiler knows")
  if sum(facts.mesh.values()) > len(facts.mesh):  # on one chip all is whole
    assert facts.compiled.largest_replicated[1] < 1e6
  assert not facts.compiled.activation_gathers


def test_one_image_of_1024_needs_less_than_12_gb():
  """All stages on one chip in bfloat16, as docs/scaling.md adds them up."""
  told = scaling()
  alone = [
    estimate.from_json(row["facts"])
    for stage in told.SIZES
    for row in json.loads((told.PLANS / f"{stage}_one.json").read_text())[
      "programs"
    ]
  ]
  assert [facts.batch_size for facts in alone] == [1, 1, 1]
  weights, _, total = told.one_image(alone)
  assert 2 * sum(facts.parameters for facts in alone) < weights < total < 12e9


@pytest.mark.parametrize("facts", programs())
def test_gradients_are_scattered(facts: estimate.Facts):
  if facts.program != "train":
    pytest.skip("there are none")
  assert facts.batch_size == 2048
  if facts.compiled is None:
    pytest.skip("only a compiler knows")
  sizes = {(row.kind, row.axes): row.bytes for row in facts.compiled.exchanges}
  scattered = sizes["reduce-scatter", "fsdp"]
  # Of bfloat16; the rest is of parts that are no multiple of a tile.
  assert scattered > 0.6 * 2 * facts.parameters
