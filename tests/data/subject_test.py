"""A subject and its class in one stream, with their weights."""

import pathlib

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.data import image_view, subject
from tests import image_sets

VIEW = image_view.View(16)
PROMPTS = {"prompt": "a photo of sks dog", "class_prompt": "a photo of a dog"}


def write_images(folder: pathlib.Path, count: int, seed: int) -> pathlib.Path:
  folder.mkdir()
  for i in range(count):
    pixels = image_sets.photo(24, 20, seed=100 * seed + i)
    (folder / f"{i}.png").write_bytes(image_sets.encode(pixels, "png"))
  return folder


@pytest.fixture
def folders(tmp_path):
  """Three of the subject; five of its class, as `imagen sample` leaves them."""
  mine, others = tmp_path / "rex", tmp_path / "class"
  write_images(mine, 3, 1)
  write_images(others, 5, 2)
  PIL.Image.new("RGB", (99, 99)).save(others / "contact_sheet.png")
  (mine / "0.txt").write_text("a caption that is not asked for")
  return mine, others


def _make(folders, view=VIEW, **changes):
  mine, others = folders
  given = PROMPTS | {"batch_size": 8, "class_folder": others} | changes
  return subject.make(mine, view, **given)


def test_half_of_a_batch_is_of_the_subject(folders):
  pipeline = _make(folders, prior_weight=0.25)
  for step in range(4):
    made = pipeline.batch_at(step)
    captions = np.array(made["caption"])
    mine = captions == PROMPTS["prompt"]
    assert mine.sum() == 4
    assert set(captions[~mine]) == {PROMPTS["class_prompt"]}
    np.testing.assert_array_equal(made["weight"], np.where(mine, 1, 0.25))
    assert made["weight"].dtype == np.float32
    starts = np.where(mine, "subject/", "class/")
    assert all(map(str.startswith, made["key"], starts))


def test_all_images_come_up_and_nothing_else(folders):
  pipeline = _make(folders)
  keys = {key for step in range(3) for key in pipeline.batch_at(step)["key"]}
  assert keys == {f"subject/{i}.png" for i in range(3)} | {
    f"class/{i}.png" for i in range(5)
  }


def test_the_images_are_those_of_the_files(folders):
  made = _make(folders, view=image_view.View(20)).batch_at(0)
  for key, image in zip(made["key"], made["image"], strict=True):
    kind, name = key.split("/")
    file = folders[kind == "class"] / name
    pixels = np.asarray(PIL.Image.open(file))[:, 2:22]
    np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)


def test_the_weighted_loss_is_that_of_the_paper(folders):
  """Of the subject, and lambda times that of its class, up to a factor."""
  made = _make(folders, prior_weight=3.0).batch_at(0)
  loss = jnp.arange(1.0, 9.0)
  mine = np.array([key.startswith("subject") for key in made["key"]])
  expected = loss[mine].mean() + 3 * loss[~mine].mean()
  np.testing.assert_allclose(2 * (made["weight"] * loss).mean(), expected)


def test_a_batch_is_a_function_of_step_and_seed_over_hosts(folders):
  one = _make(folders, seed=1).batch_at(3)
  hosts = [
    _make(folders, seed=1, host_index=i, host_count=2).batch_at(3)
    for i in range(2)
  ]
  np.testing.assert_array_equal(
    one["weight"], np.concatenate([host["weight"] for host in hosts])
  )
  assert one["key"] == [key for host in hosts for key in host["key"]]
  assert one["key"] != _make(folders, seed=2).batch_at(3)["key"]


def test_without_a_class_all_is_of_the_subject(folders):
  made = _make(folders, class_folder=None).batch_at(0)
  assert set(made["caption"]) == {PROMPTS["prompt"]}
  np.testing.assert_array_equal(made["weight"], np.ones(8))


def test_super_resolution_gets_its_pairs(folders):
  made = _make(folders, image_view.View(16, low_resolution=4)).batch_at(0)
  assert made["x_lr"].shape == (8, 4, 4, 3)


def test_the_fingerprint_is_of_images_prompts_and_their_weight(folders):
  fingerprint = _make(folders).fingerprint
  assert fingerprint == _make(folders).fingerprint
  changed = (
    {"prompt": "another"},
    {"class_prompt": "another"},
    {"prior_weight": 0.5},
    {"class_folder": None},
  )
  others = {_make(folders, **change).fingerprint for change in changed}
  write_images(folders[0] / "more", 1, 3)
  others.add(_make(folders).fingerprint)
  assert len(others - {fingerprint}) == 5


def test_one_damaged_image_of_so_few_stops_the_run(folders):
  (folders[0] / "1.png").write_bytes(b"no image")
  with pytest.raises(errors.DataError, match="subject/1.png"):
    list(_make(folders).batches(0, 4))


def test_what_cannot_be_a_recipe_is_refused(folders, tmp_path):
  with pytest.raises(errors.BadInput, match="holds no images"):
    _make((tmp_path / "nothing", folders[1]))
  with pytest.raises(errors.BadInput, match="a rare word"):
    _make(folders, prompt="a photo of a dog")
  for weight in (-1.0, float("nan")):
    with pytest.raises(errors.BadInput, match="prior_weight"):
      _make(folders, prior_weight=weight)
