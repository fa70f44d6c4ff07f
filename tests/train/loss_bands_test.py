"""Bands of healthy runs, and what is said of others."""

import importlib.resources

import numpy as np
import pytest

from configs import demo
from imagen_jax import build
from imagen_jax.core import errors
from imagen_jax.train import loss_bands, metrics

LOW, HIGH = metrics.bin_names()[4], metrics.bin_names()[5]


def rows(seed, steps=range(10, 101, 10)):
  """Losses that fall, with some noise."""
  draw = np.random.default_rng(seed)
  return [
    {
      "step": step,
      LOW: draw.uniform(0.9, 1.1) / step,
      HIGH: draw.uniform(1.8, 2.2) / step,
    }
    for step in steps
  ]


BANDS = loss_bands.make(rows(0) + rows(1), [10, 50])


def test_a_healthy_run_is_inside_the_bands_of_others():
  assert [loss_bands.compare(row, BANDS) for row in rows(2)] == [[]] * 10


def test_a_band_spans_its_rows_those_of_the_next_step_and_the_margin():
  found = loss_bands.make(rows(0), [10, 50], margin=0.5)
  inside = [row[LOW] for row in rows(0) if 10 <= row["step"] <= 50]
  np.testing.assert_allclose(
    found[0][LOW], [min(inside) / 1.5, max(inside) * 1.5], rtol=1e-3
  )
  assert [band["step"] for band in found] == [10, 50]


def test_steps_without_a_row_have_no_band():
  with pytest.raises(errors.BadInput, match="no row is of steps 200 to 300"):
    loss_bands.make(rows(0), [10, 200, 300])


def test_one_noise_level_out_of_band_is_told_alone():
  row = rows(2)[-1] | {LOW: 1.0}
  (finding,) = loss_bands.compare(row, BANDS)
  assert finding.startswith("at logsnr -4 to 0 the loss is 1; in a healthy run")
  assert "times too high" in finding


def test_too_low_and_not_finite_are_findings():
  row = rows(2)[-1]
  for value, words in (
    (1e-5, "too low"),
    (0.0, "far too low"),
    (None, "not finite"),
    (float("nan"), "not finite"),
  ):
    (finding,) = loss_bands.compare(row | {HIGH: value}, BANDS)
    assert words in finding and "logsnr 0 to 4" in finding


def test_the_band_of_the_step_is_used_and_none_before_the_first():
  early, late = {"step": 10, LOW: 0.1}, {"step": 100, LOW: 0.1}
  assert loss_bands.compare(early, BANDS) == []
  assert len(loss_bands.compare(late, BANDS)) == 1
  assert loss_bands.compare({"step": 9, LOW: 1e9}, BANDS) == []


def test_noise_levels_that_either_side_lacks_are_passed_over():
  assert loss_bands.compare({"step": 50}, BANDS) == []
  other = metrics.bin_names()[0]
  assert loss_bands.compare({"step": 50, other: 9.0}, BANDS) == []
  rare = loss_bands.make([*rows(0), {"step": 20, LOW: 1.0}], [10, 50])
  assert [list(band) for band in rare] == [["step", LOW]] * 2


def test_a_config_that_the_bands_are_not_of_is_told():
  of = {"data.name": "emoji", "train.batch_size": 16}
  reference = loss_bands.Reference("two runs", of, BANDS)
  config = {"data": {"name": "emoji"}, "train": {"batch_size": 16}, "seed": 9}
  assert loss_bands.foreign(reference, config) == []
  config["data"]["name"] = "images"
  assert loss_bands.foreign(reference, config) == [
    "data.name is 'images', theirs 'emoji'"
  ]
  assert len(loss_bands.foreign(reference, {"data": "emoji"})) == 2


def test_a_file_of_bands_comes_back(tmp_path):
  path = tmp_path / "bands.json"
  reference = loss_bands.Reference("two runs", {"data.name": "emoji"}, BANDS)
  loss_bands.write(path, reference)
  assert loss_bands.read(path) == reference
  for text in ('{"about": "", "of": {}, "bands": [{}]}', "[]", "{"):
    path.write_text(text)
    with pytest.raises(errors.BadInput, match="no file of loss bands"):
      loss_bands.read(path)
  with pytest.raises(errors.BadInput, match="no file of loss bands"):
    loss_bands.read(tmp_path / "none.json")


# Rows of the demo at seed 2, which the shipped bands were not made from: step,
# then the loss from logsnr -8 to 8 by fours.
SHIPPED = {
  "base_32": [
    (50, 0.3396, 0.4561, 0.7752, 0.9509),
    (75, 0.3780, 0.3654, 0.5905, 0.8400),
    (100, 0.4428, 0.3328, 0.4192, 0.6885),
    (125, 0.3950, 0.3027, 0.3267, 0.6314),
  ],
  "sr_128": [
    (50, 0.0424, 0.0365, 0.0244, 0.0164),
    (75, 0.0448, 0.0367, 0.0217, 0.0164),
    (100, 0.0403, 0.0269, 0.0207, 0.0151),
    (125, 0.0337, 0.0303, 0.0170, 0.0152),
  ],
}
LEVELS = metrics.bin_names()[3:7]


def shipped(name):
  assets = importlib.resources.files("imagen_jax") / "assets" / "demo"
  return loss_bands.read(str(assets / f"loss_bands_{name}.json"))


def row(step, *values):
  return {"step": step} | dict(zip(LEVELS, values, strict=True))


@pytest.mark.parametrize("name", SHIPPED)
def test_another_seed_is_inside_the_shipped_bands(name):
  bands = shipped(name).bands
  for numbers in SHIPPED[name]:
    assert loss_bands.judged(row(*numbers), bands).keys() == set(LEVELS)
    assert loss_bands.compare(row(*numbers), bands) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_losses_that_stand_still_or_vanish_are_outside_the_shipped_bands(name):
  reference = shipped(name)
  first, *_, last = SHIPPED[name]
  ones = [1.0] * 4
  for step in (reference.of["train.steps"] // 2, reference.of["train.steps"]):
    stuck = row(step, *first[1:])
    assert len(loss_bands.compare(stuck, reference.bands)) == 4, step
    assert len(loss_bands.compare(row(step, *ones), reference.bands)) == 4
  known = row(last[0], *(0.1 * value for value in last[1:]))
  assert all("too low" in s for s in loss_bands.compare(known, reference.bands))
  assert len(loss_bands.compare(known, reference.bands)) == 4


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_bands_are_ranges_and_say_what_they_are_of(name):
  reference = shipped(name)
  stage = name.partition("_")[0]
  config = build.plain(demo.get_config(stage))
  assert loss_bands.foreign(reference, config) == []
  assert f"configs/demo.py:{stage}" in reference.about
  for band in reference.bands:
    assert all(0 < low < high for low, high in (band[n] for n in LEVELS))
