"""Emoji by their nearest picture, and where captions of images come from."""

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import emoji
from imagen_jax.evals import (
  captioned_images,
  emoji_measure,
  image_set,
  retrieval,
)


@pytest.fixture(scope="module")
def objects():
  return emoji.open_emoji()


@pytest.fixture(scope="module")
def shown(objects):
  """Captions, and their true images as the network of retrieval reads them."""
  pairs = emoji_measure.choose_pairs(objects, 40, seed=3)
  pixels = images.to_uint8(emoji_measure.real_images(objects, pairs, 64))
  prepare = retrieval.network().prepare
  small = np.stack([prepare(x).reshape(-1) for x in pixels])
  return [pair.caption for pair in pairs], small


def test_true_images_are_found_and_others_are_not(objects, shown):
  captions, small = shown
  found = retrieval.flags(objects, small, captions)
  assert list(found) == list(retrieval.NAMES)
  assert min(values.mean() for values in found.values()) > 0.97
  wrong = retrieval.flags(objects, np.roll(small, 1, axis=0), captions)
  assert wrong["object"].mean() < 0.1
  assert wrong["colour"].mean() < 0.4
  np.testing.assert_array_less(wrong["both"] - 1e-9, wrong["object"] + 1e-9)


def test_other_captions_are_refused(objects):
  people = next(
    i for i, group in enumerate(objects.groups) if group == "people"
  )
  for caption in ("a cat", objects.caption(people, 0)):
    with pytest.raises(errors.BadInput, match="1 of 2 captions name no object"):
      crab = objects.caption(objects.index("crab"), 0)
      retrieval.pairs(objects, [crab, caption])


def save(path, **text):
  images.write_png(path, np.zeros((4, 4, 3), np.uint8), text)


def test_captions_come_from_the_files_or_from_beside(tmp_path):
  samples = tmp_path / "samples"
  for i in range(2):
    save(samples / f"{i}.png", prompt=f"cat {i}", stage="sr", index="0")
  found = captioned_images.open_images(str(samples))
  assert [item.key for item in found.stream.read()] == ["0.png", "1.png"]
  assert found.captions == {"0.png": "cat 0", "1.png": "cat 1"}
  image_set.write(samples, [image_set.Entry("1.png", "a dog")], {})
  found = captioned_images.open_images(str(samples))
  assert found.captions == {"1.png": "a dog"} and found.stream.count == 1

  beside = tmp_path / "beside"
  beside.mkdir()
  for name in "ab":
    PIL.Image.new("RGB", (4, 4)).save(beside / f"{name}.png")
  (beside / "a.txt").write_text("an apple\nfruit")
  found = captioned_images.open_images(str(beside))
  with pytest.raises(errors.BadInput, match="image 'b.png' .*has no caption"):
    list(found.stream.read())
  (tmp_path / "all.csv").write_text("file_name,text\na.png,one\nb.png,two\n")
  found = captioned_images.open_images(str(beside), str(tmp_path / "all.csv"))
  assert len(list(found.stream.read())) == 2
  assert found.captions == {"a.png": "one", "b.png": "two"}
