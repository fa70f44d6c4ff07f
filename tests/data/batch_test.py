"""Tests of imagen_jax.data.batch."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import batch

SPEC = batch.spec(
  3, resolution=16, low_resolution=4, max_length=5, text_width=7
)


def test_a_fake_batch_fits_its_spec():
  made = batch.fake_batch(SPEC)
  batch.check(made, SPEC)
  assert set(made) == set(SPEC) == set(batch.ARRAYS)
  assert made["x_lr"].shape == (3, 4, 4, 3)
  assert made["text_mask"].any(axis=1).all()
  again = batch.fake_batch(SPEC)
  other = batch.fake_batch(SPEC, seed=1)
  np.testing.assert_array_equal(made["image"], again["image"])
  assert (made["image"] != other["image"]).any()


def test_a_base_stage_has_no_x_lr():
  fields = batch.spec(
    2, resolution=8, low_resolution=None, max_length=5, text_width=7
  )
  assert "x_lr" not in fields


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["image", "x_lr", "text_emb"])
def test_nan_names_field_and_row(name, value):
  made = batch.fake_batch(SPEC)
  made[name][1].flat[3] = value
  with pytest.raises(errors.NonFinite, match=f"{name}.* first in row 1"):
    batch.check(made, SPEC)


def test_wrong_fields_are_named():
  made = batch.fake_batch(SPEC)
  with pytest.raises(errors.BadInput, match="has no 'image'"):
    batch.check({"x_lr": made["x_lr"]}, SPEC)
  with pytest.raises(errors.BadInput, match="expected float32"):
    batch.check(made | {"image": made["image"].astype(np.float64)}, SPEC)
  with pytest.raises(errors.BadInput, match="from_uint8"):
    batch.check(made | {"image": made["image"] * 127}, SPEC)
