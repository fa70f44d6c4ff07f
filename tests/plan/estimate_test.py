"""The roofline again, by hand in float64; bytes, advice, JSON."""

import json

import numpy as np
import pytest

from imagen_jax.plan import estimate, table

COMPILED = estimate.Compiled(
  argument_bytes=1100,
  output_bytes=900,
  alias_bytes=880,
  temporary_bytes=5000,
  code_bytes=300,
  flops=4e12,
  traffic_bytes=5e9,
  exchanges=(
    estimate.Exchange("all-gather", "fsdp", 3, 10**9, 0.75e9),
    estimate.Exchange("reduce-scatter", "fsdp", 2, 10**9, 0.75e9),
  ),
  largest_replicated=("scale", 64),
  activation_gathers=(),
  largest_arrays=(("f32[8]", 32),),
  seconds=1.0,
)
FACTS = estimate.Facts(
  program="train",
  topology="v5e:2x2",
  mesh={"data": 1, "fsdp": 4, "spatial": 1, "tensor": 1},
  batch_size=16,
  remat="none",
  micro_batches=1,
  steps=1000,
  parameters=10**6,
  held={"params": 400, "EMA": 400, "optimizer": 200, "batch": 50},
  model_flops=0.75e12,
  compiled=COMPILED,
)


def test_bytes_add_up():
  found = estimate.estimate(FACTS)
  assert found.total_bytes == 1100 + 900 - 880 + 5000 + 300
  assert found.bytes["padding, rest"] == 50
  assert found.fits and found.hbm_bytes == 15.75 * 2**30


def test_the_roofline_by_hand():
  found = estimate.estimate(FACTS, price=1.5)
  seconds = np.float64([4e12 / 197e12, 5e9 / 0.82e12, 1.5e9 / 90e9])
  assert list(found.seconds.values()) == pytest.approx(seconds, rel=1e-12)
  step = seconds.max()
  assert found.bound == "compute" and found.step_seconds == step
  assert found.mfu == pytest.approx(0.75e12 * 16 / 4 / step / 197e12, rel=1e-12)
  serial = 0.75e12 * 16 / 4 / seconds.sum() / 197e12
  assert found.serial_mfu == pytest.approx(serial, rel=1e-12)
  assert found.compiled_flops == 4e12 * 4 / 16
  assert found.intensity == 800
  assert found.images_per_second == pytest.approx(16 / step, rel=1e-12)
  assert found.days == pytest.approx(1000 * step / 86400, rel=1e-12)
  assert found.chip_hours == pytest.approx(1000 * step / 3600 * 4, rel=1e-12)
  assert found.cost == pytest.approx(1.5 * found.chip_hours, rel=1e-12)
  assert estimate.estimate(FACTS).cost is None


@pytest.mark.parametrize(
  ("change", "bound"),
  [
    ({"flops": 4e9}, "network"),
    ({"traffic_bytes": 5e11}, "memory"),
    ({}, "compute"),
  ],
)
def test_the_slowest_bounds_the_step(change, bound):
  facts = FACTS._replace(compiled=COMPILED._replace(**change))
  found = estimate.estimate(facts)
  assert found.bound == bound
  assert found.step_seconds == max(found.seconds.values())


def test_what_padding_costs_is_not_taken_for_speed():
  alone = COMPILED._replace(flops=1e12, exchanges=())
  facts = FACTS._replace(compiled=alone)
  found = estimate.estimate(facts)
  assert found.seconds["compute"] == pytest.approx(3e12 / 197e12, rel=1e-12)
  assert found.mfu == pytest.approx(1.0) and found.compiled_flops == 0.25e12


def test_without_a_compiler_shapes_make_the_estimate():
  facts = FACTS._replace(topology="gpu:4xh100", remat="blocks", compiled=None)
  found = estimate.estimate(facts)
  flops = 0.75e12 * 16 / 4 * 4 / 3
  assert found.seconds["compute"] == pytest.approx(flops / 989e12, rel=1e-12)
  for remat, passes in (("none", 3), ("full", 5)):
    more = estimate.estimate(facts._replace(remat=remat)).compiled_flops
    assert more == pytest.approx(found.compiled_flops * passes / 4, rel=1e-12)
  assert found.seconds["memory"] == pytest.approx(2 * 1050 / 3.35e12)
  sent = 3 * 2 * 10**6 * 3 / 4
  assert found.seconds["network"] == pytest.approx(sent / 450e9, rel=1e-12)
  assert found.total_bytes == 1050
  assert "nothing was compiled" in table.text(facts, found)


def test_what_is_too_large_gets_advice():
  facts = FACTS._replace(compiled=None, too_large=20 * 2**30)
  found = estimate.estimate(facts)
  assert not found.fits and found.total_bytes == 20 * 2**30
  tips = "\n".join(estimate.advice(facts, found))
  assert "stage.fields.remat=blocks" in tips
  for remat, more in (("blocks", True), ("full", False)):
    tips_of = "".join(estimate.advice(facts._replace(remat=remat), found))
    assert ("stage.fields.remat=full" in tips_of) == more
  assert "train.micro_batches=2" in tips and "batch_size=8" in tips
  assert "mesh.fsdp" not in tips  # there is no data axis to take it from
  text = table.text(facts, found)
  assert "DOES NOT FIT" in text and "what may help" in text
  assert not estimate.advice(FACTS, estimate.estimate(FACTS))


def test_a_large_state_is_to_be_cut_finer():
  facts = FACTS._replace(
    topology="v5e:4x4",
    mesh=FACTS.mesh | {"data": 4},
    held={"params": 12 * 2**30},
    compiled=None,
    too_large=20 * 2**30,
  )
  tips = estimate.advice(facts, estimate.estimate(facts))
  assert any("mesh.fsdp=8" in tip for tip in tips)


def test_facts_pass_through_json():
  for facts in (FACTS, FACTS._replace(compiled=None, too_large=3)):
    text = json.dumps(estimate.as_json(facts))
    assert estimate.from_json(json.loads(text)) == facts
  with pytest.raises(TypeError):
    estimate.from_json({"program": "train"})


def test_tables_are_of_80_columns():
  found = estimate.estimate(FACTS)
  for text in (
    table.text(FACTS, found),
    table.ranking([(FACTS, found), (FACTS, found._replace(fits=False))]),
  ):
    assert max(map(len, text.splitlines())) <= 80


def test_the_fastest_that_fits_ranks_first():
  found = estimate.estimate(FACTS)
  slow = found._replace(step_seconds=9.0)
  large = found._replace(fits=False, step_seconds=0.1)
  rows = [(FACTS, row) for row in (large, slow, found)]
  assert [row for _, row in table.ranked(rows)] == [found, slow, large]
