"""Chips and the names of slices."""

import pytest

from imagen_jax.core import errors
from imagen_jax.plan import chips
from imagen_jax.train import flops

KINDS = {
  "v4": "TPU v4",
  "v5e": "TPU v5 lite",
  "v5p": "TPU v5",
  "v6e": "TPU v6 lite",
  "h100": "NVIDIA H100 80GB HBM3",
  "h200": "NVIDIA H200",
}


@pytest.mark.parametrize("name", chips.CHIPS)
def test_a_chip_has_the_peak_that_runs_are_measured_against(name):
  chip = chips.CHIPS[name]
  assert chip.peak == flops.peak_flops(KINDS[name])
  # Bytes a chip reads in the time of one FLOP each: all are of one order.
  assert 150 < chip.peak / chip.bandwidth < 600
  assert chip.bandwidth > chip.link
  assert chips.topology(chip.example).chip == chip


@pytest.mark.parametrize(
  ("name", "chip", "count", "is_tpu"),
  [
    ("v4:8x8x4", "v4", 256, True),
    ("v5e:2x2", "v5e", 4, True),
    ("v5p:4x4x8", "v5p", 128, True),
    ("gpu:8xh200", "h200", 8, False),
  ],
)
def test_a_slice_is_read(name, chip, count, is_tpu):
  found = chips.topology(name)
  assert found == (name, chips.CHIPS[chip], count, is_tpu)


@pytest.mark.parametrize(
  "name",
  [
    "",
    "v5e",
    "v5e:16",
    "v5e:2x2x2",
    "v4:4x4",
    "v9:2x2",
    "gpu:8xv4",
    "h200:2x2",
    "v5e:0x2",
    "gpu:0xh100",
  ],
)
def test_what_is_no_slice_is_refused_with_examples(name):
  with pytest.raises(errors.BadInput, match=r"v5e:16x16, .*gpu:8xh200"):
    chips.topology(name)
