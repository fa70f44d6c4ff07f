"""Pixels and files: what is usually wrong with them is told as such."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import examples, image_pipeline, image_view, rejects
from imagen_jax.health import data
from tests import image_sets

GOOD = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)


def test_pixels_in_range_are_well():
  found = data.pixels({"image": GOOD, "x_lr": GOOD[:, ::2, ::2]})
  assert found.level == "ok" and "x_lr from -" in found.said


@pytest.mark.parametrize(
  ("image", "level", "said"),
  [
    ((GOOD + 1) * 127.5, "problem", "images in 0..255"),
    ((GOOD + 1) / 2, "warning", "0..1"),
    (2.5 * GOOD, "problem", "[-1, 1] is expected"),
    (np.where(GOOD > 0.9, np.nan, GOOD), "problem", "not finite"),
  ],
)
def test_pixels_of_another_range_are_named(image, level, said):
  for batch in ({"image": image}, {"image": GOOD, "x_lr": image}):
    found = data.pixels(batch)
    assert found.level == level and said in found.said and found.remedy
    assert found.error is (errors.DataError if level == "problem" else None)


@pytest.mark.parametrize(
  ("flat", "level"), [(0, "ok"), (1, "warning"), (4, "problem")]
)
def test_images_of_one_colour_are_counted(flat, level):
  image = GOOD.copy()
  image[:flat] = [0.5, -0.5, 0.0]  # one colour, though not grey
  found = data.contrast({"image": image, "key": ["a", "b", "c", "d"]})
  assert found.level == level and found.said.startswith(f"{flat} of 4")
  assert ("'a'" in found.said) == (flat > 0)


@pytest.fixture(scope="module")
def good():
  return image_sets.make(6, sides=(64,))


def files(source):
  return {finding.check: finding for finding in data.files(source, "photos")}


def test_files_that_decode_are_well(good):
  found = files(image_sets.ListSource(good))
  assert {finding.level for finding in found.values()} == {"ok"}
  assert "6 of 6 decode" in found["set photos"].said


def test_a_file_that_does_not_decode_is_named(good):
  broken = examples.Example("k", "a caption", good[0].image[:40], {})
  found = files(image_sets.ListSource([*good, broken]))["set photos"]
  assert found.level == "problem" and found.error is errors.DataError
  assert "6 of 7 decode" in found.said and "record 6" in found.said
  assert "imagen data verify" in found.remedy


def test_the_same_image_twice_is_told(good):
  found = files(image_sets.ListSource([*good, *good[:2]]))["duplicates"]
  assert found.level == "warning" and found.said.startswith("2 of 8")


@pytest.mark.parametrize(
  ("count", "level"), [(0, "ok"), (1, "warning"), (3, "problem")]
)
def test_rejects_are_measured_by_the_budget(count, level):
  found = [rejects.Reject(f"k{i}", "damaged.") for i in range(count)]
  finding = data.rejected(found, 64, rejects.Budget(100, 0.01))
  assert finding.level == level
  assert ("'k0': damaged." in finding.said) == (count > 0)
  assert data.rejected(found, 64, rejects.Budget(100, 0.9)).level != "problem"


def test_small_pictures_are_rejects(good):
  view = image_view.View(128)
  batches = image_pipeline.make(
    [image_sets.ListSource([*good, *image_sets.make(2, seed=1, sides=(128,))])],
    view,
    batch_size=8,
  )
  found = batches.make_batch(0).rejects
  assert data.rejected(found, 8, batches.budget).level == "problem"
