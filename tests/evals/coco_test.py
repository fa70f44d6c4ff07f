"""COCO's captions: the list that a seed chooses, and what is refused."""

import hashlib
import json

import pytest

from imagen_jax.core import errors
from imagen_jax.evals import coco
from tests import image_sets


def make(root, count=12, **changes):
  """A made-up COCO: two captions an image, one text of them all the same."""
  images = root / "val2014"
  images.mkdir(parents=True)
  rows, notes = [], []
  for i in range(count):
    name = f"COCO_val2014_{i:012d}.jpg"
    pixels = image_sets.photo(40 + i, 60, seed=i)
    (images / name).write_bytes(image_sets.encode(pixels))
    rows.append({"id": 100 + i, "file_name": name})
    for k, text in enumerate((f"photo {i} <b>", "A cat. ")):
      notes.append({"id": 10 * i + k, "image_id": 100 + i, "caption": text})
  value = {"images": rows, "annotations": notes} | changes
  path = root / "annotations" / "captions_val2014.json"
  path.parent.mkdir()
  path.write_text(json.dumps(value))
  return path


def test_the_list_is_the_seeds_and_a_shorter_one_is_its_beginning(tmp_path):
  found = coco.read(make(tmp_path))
  whole = coco.choose(found, 24, seed=3)
  assert len({sample.caption.id for sample in whole}) == 24
  assert coco.choose(found, 7, seed=3) == whole[:7]
  assert coco.choose(found, 7, seed=4) != whole[:7]
  # Derived anew: the digests of seed and id, in order.
  digests = [
    hashlib.sha256(f"3 {sample.caption.id}".encode()).hexdigest()
    for sample in whole
  ]
  assert digests == sorted(digests)


def test_a_text_that_is_drawn_again_gets_another_image(tmp_path):
  samples = coco.choose(coco.read(make(tmp_path)), 24, seed=0)
  drawn = [(sample.caption.text, sample.index) for sample in samples]
  assert len(set(drawn)) == 24
  assert [k for text, k in drawn if text == "A cat."] == list(range(12))


def test_real_images_are_all_or_those_of_a_list(tmp_path):
  found = coco.read(make(tmp_path))
  folder = tmp_path / "val2014"
  assert coco.real_images(found, folder).count == 12
  some = coco.real_images(found, folder, [103, 101, 103])
  keys = [item.key for item in some.read()]
  assert keys == [f"COCO_val2014_{i:012d}.jpg" for i in (1, 3)]


BAD = [
  ({"annotations": [{"id": 1, "image_id": 100}]}, "'caption' is missing"),
  ({"annotations": []}, "holds no caption"),
  ({"annotations": 5}, "holds no captions"),
  ({"images": []}, "which is not among the images"),
  ({"images": [{"id": 1, "file_name": "../x.jpg"}]}, "no name of an image"),
  (
    {"annotations": 2 * [{"id": 1, "image_id": 100, "caption": "x"}]},
    "two captions of one id",
  ),
  (
    {"annotations": [{"id": 1, "image_id": 100, "caption": None}]},
    "is no text",
  ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_other_json_is_refused(tmp_path, changes, message):
  path = make(tmp_path, 2, **changes)
  with pytest.raises(errors.BadInput, match=message):
    coco.read(path)


def test_what_is_missing_is_refused(tmp_path):
  path = make(tmp_path, 3)
  found = coco.read(path)
  for count in (0, 7):
    with pytest.raises(errors.BadInput, match="take 1 to the 6"):
      coco.choose(found, count, 0)
  folder = tmp_path / "val2014"
  (folder / found.names[101]).unlink()
  with pytest.raises(errors.BadInput, match=r"1 of 3 images .*000000001.jpg"):
    coco.real_images(found, folder)
  with pytest.raises(errors.BadInput, match="is no folder"):
    coco.real_images(found, tmp_path / "none")
  path.write_text("{")
  with pytest.raises(errors.BadInput, match="holds no captions"):
    coco.read(path)
  with pytest.raises(errors.BadInput, match="cannot read captions"):
    coco.read(tmp_path / "none.json")
