"""Bands of healthy runs, and what is said of others."""

import numpy as np
import pytest

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


def test_a_band_spans_its_rows_and_the_margin():
  found = loss_bands.make(rows(0), [10, 50], margin=0.5)
  inside = [row[LOW] for row in rows(0) if 10 <= row["step"] < 50]
  np.testing.assert_allclose(
    found[0][LOW], [min(inside) / 1.5, max(inside) * 1.5]
  )
  assert [band["step"] for band in found] == [10, 50]


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


def test_bins_that_either_side_lacks_are_passed_over():
  assert loss_bands.compare({"step": 50}, BANDS) == []
  other = metrics.bin_names()[0]
  assert loss_bands.compare({"step": 50, other: 9.0}, BANDS) == []
  gappy = loss_bands.make([{"step": 10, LOW: None}], [10])
  assert gappy == [{"step": 10}]


def test_a_file_of_bands_comes_back(tmp_path):
  path = tmp_path / "bands.json"
  loss_bands.write(path, BANDS, about="two runs")
  assert loss_bands.read(path) == BANDS
  path.write_text('{"bands": [{}]}')
  with pytest.raises(errors.BadInput, match="no file of loss bands"):
    loss_bands.read(path)
  with pytest.raises(errors.BadInput, match="no file of loss bands"):
    loss_bands.read(tmp_path / "none.json")
