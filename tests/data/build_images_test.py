"""Tests of imagen_jax.data.build_images, image_filter and set_folder."""

import io
import json
import os

import filelock
import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.data import (
  array_record_source,
  build_images,
  decode,
  examples,
  image_filter,
  image_item,
  image_sources,
  set_folder,
)
from tests import image_files

SETTINGS = image_filter.Settings()


def _source(items, count=None):
  return image_sources.Images("made", lambda: iter(items), count)


def _item(seed, **change):
  item = image_item.Item(
    f"{seed:03d}", image_files.file(seed), (f"no. {seed}",)
  )
  return item._replace(**change)


def _skipped(folder):
  text = (folder / set_folder.SKIPPED).read_text()
  return [json.loads(line) for line in text.splitlines()]


MIXED = [
  _item(0),
  _item(1, image=b"GIF89a..."),
  _item(2, image=image_files.file(2)[:700]),
  _item(3, captions=()),
  _item(4, image=image_files.file(4, height=63)),
  _item(5, image=image_files.file(5, "png", 300, 200), captions=("a", "b")),
  _item(6, problem="no image", detail="only txt"),
  _item(7, image=image_files.file(0)),
  _item(8, image=image_files.file(8, "webp", 90, 640)),
]


def test_a_set_holds_what_can_be_used_and_names_what_cannot(tmp_path):
  report = build_images.build(
    _source(MIXED), tmp_path, SETTINGS, max_bad=0.5, shard_size=2
  )
  source = examples.open_set(tmp_path, checked=True)
  assert source.read_all() == [
    examples.Example(item.key, item.captions[0], item.image, extra)
    for item, extra in (
      (MIXED[0], {"width": 96, "height": 72}),
      (MIXED[5], {"width": 200, "height": 300, "captions": ["a", "b"]}),
      (MIXED[7], {"width": 96, "height": 72}),
      (MIXED[8], {"width": 640, "height": 90}),
    )
  ]
  found = [(line["key"], line["reason"]) for line in _skipped(tmp_path)]
  assert found == [
    ("001", "not a JPEG, PNG or WebP file"), ("002", "damaged"),
    ("003", "no caption"), ("004", "too small"), ("006", "no image"),
  ]  # fmt: skip
  assert (report.seen, report.bad, report.tally.images) == (9, 4, 4)
  manifest = source.manifest
  assert [shard.records for shard in manifest.shards] == [2, 2]
  assert manifest.content["contents"] == json.loads(
    json.dumps(report.as_json())
  )
  assert manifest.content["contents"]["shorter_side"] == {
    "64..127": 3, "128..255": 1,
  }  # fmt: skip
  assert manifest.content["contents"]["captions"]["count"] == 5
  assert manifest.content["name"] == "made"
  assert not (tmp_path / set_folder.BUILDING).exists()


def test_the_same_bytes_whatever_the_workers_and_the_folder(tmp_path):
  settings = image_filter.Settings(resize=80, dedup=True)
  items = [_item(i % 30, key=f"{i}") for i in range(50)] + MIXED
  found = []
  for workers in (1, 2, 7):
    out = tmp_path / f"with {workers}"
    build_images.build(
      _source(items), out, settings, max_bad=0.2, workers=workers, shard_size=8
    )
    found.append(image_files.contents(out))
  assert found[0] == found[1] == found[2]
  assert len(found[0]) == 6 and len(examples.open_set(out)) == 32
  other = image_filter.Settings(resize=79, dedup=True)
  build_images.build(_source(items), tmp_path / "b", other, max_bad=0.2)
  assert examples.open_set(tmp_path / "b").fingerprint != (
    examples.open_set(out).fingerprint
  )


def test_duplicates_are_left_out_only_if_asked(tmp_path):
  settings = image_filter.Settings(dedup=True)
  build_images.build(_source(MIXED), tmp_path, settings, max_bad=0.5)
  assert len(examples.open_set(tmp_path)) == 3
  assert {"key": "007", "reason": "duplicate", "detail": "of 000"} in _skipped(
    tmp_path
  )


@pytest.mark.parametrize(
  ("kind", "height", "width", "size"),
  [
    ("jpeg", 160, 240, (120, 80)),
    ("png", 400, 133, (80, 241)),
    ("webp", 81, 900, (889, 80)),
  ],
)
def test_resizing_makes_the_shorter_side(kind, height, width, size):
  item = _item(3, image=image_files.file(3, kind, height, width))
  settings = image_filter.Settings(resize=80)
  example = image_filter.judge(item, settings).example
  assert (example.extra["width"], example.extra["height"]) == size
  assert decode.size(example.image) == size
  stored = decode.name_of_format(example.image)
  assert stored == ("PNG" if kind == "png" else "JPEG")
  # Against the mean of the pixels below, which is another antialiased filter.
  whole = PIL.Image.open(io.BytesIO(item.image)).convert("RGB")
  expected = np.asarray(whole.resize(size, PIL.Image.Resampling.BOX))
  found = decode.decode(example.image).astype(int)
  nearest = np.asarray(whole.resize(size, PIL.Image.Resampling.NEAREST))
  error, bad = (np.abs(found - x).mean() for x in (expected, nearest))
  assert error < 4 and error < bad


def test_small_enough_images_keep_their_bytes_when_resizing():
  item = _item(3, image=image_files.file(3, "webp", 80, 200))
  settings = image_filter.Settings(resize=80)
  assert image_filter.judge(item, settings).example.image == item.image


def test_resizing_turns_the_image_upright():
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  buffer = io.BytesIO()
  image = PIL.Image.fromarray(image_files.pixels(0, 200, 300))
  image.save(buffer, "jpeg", exif=exif)
  item = _item(0, image=buffer.getvalue())
  kept = image_filter.judge(item, SETTINGS).example
  small = image_filter.judge(item, image_filter.Settings(resize=100)).example
  assert kept.extra == {"width": 200, "height": 300}
  assert kept.image == item.image
  assert small.extra == {"width": 100, "height": 150}
  assert decode.decode(small.image).shape == (150, 100, 3)


def test_limits_of_size():
  item = _item(0)
  pixels = 72 * 96
  for settings, reason in (
    (image_filter.Settings(min_size=72, max_pixels=pixels), ""),
    (image_filter.Settings(min_size=73), "too small"),
    (image_filter.Settings(max_pixels=pixels - 1), "too many pixels"),
    (
      image_filter.Settings(max_pixels=pixels - 1, resize=64),
      "too many pixels",
    ),
  ):
    assert image_filter.judge(item, settings).reason == reason


def test_too_many_bad_records_stop_the_build(tmp_path):
  items = [_item(i % 9, key=str(i)) for i in range(98)]
  items[40:40] = [_item(1, key="bad", image=b"1"), _item(2, captions=())]
  with pytest.raises(errors.DataError) as caught:
    build_images.build(_source(items), tmp_path, SETTINGS, max_bad=0.019)
  assert str(caught.value) == (
    "2 of 100 records so far are bad, more than max_bad=0.019 allows: 1 not a"
    " JPEG, PNG or WebP file, 1 no caption. They are named in"
    f" {str(tmp_path / 'skipped.jsonl')!r}; mend them, or allow more by"
    " --max_bad."
  )
  assert errors.DataError.exit_code == 4
  assert os.listdir(tmp_path) == [set_folder.SKIPPED]
  assert [line["key"] for line in _skipped(tmp_path)] == ["bad", "002"]
  with pytest.raises(errors.BadInput, match="no manifest"):
    examples.open_set(tmp_path)
  build_images.build(_source(items), tmp_path, SETTINGS, max_bad=0.02)
  assert len(examples.open_set(tmp_path)) == 98


def test_a_hopeless_build_stops_early(tmp_path):
  read = []

  def items():
    for i in range(1000):
      read.append(i)
      yield _item(0, key=str(i), image=b"")

  source = image_sources.Images("made", items, 1000)
  with pytest.raises(errors.DataError, match="11 of 11 records so far are bad"):
    build_images.build(source, tmp_path, SETTINGS, max_bad=0.01)
  assert len(read) < 30


def test_nothing_to_keep_is_an_error(tmp_path):
  small = [_item(0, image=image_files.file(0, height=20))]
  with pytest.raises(
    errors.DataError, match=r"none of 1 records .*1 too small"
  ):
    build_images.build(_source(small), tmp_path, SETTINGS)
  with pytest.raises(errors.DataError, match="it is empty"):
    build_images.build(_source([]), tmp_path, SETTINGS)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path):
  seen = []
  dry = build_images.dry_run(_source(MIXED, 9), SETTINGS, watch=seen.append)
  built = build_images.build(_source(MIXED), tmp_path, SETTINGS, max_bad=0.5)
  assert dry.as_json() == built.as_json()
  assert seen == [build_images.Progress(i, 9) for i in range(1, 10)]


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
  build_images.build(_source([_item(0)]), tmp_path / "set", SETTINGS)
  before = image_files.contents(tmp_path / "set")
  with pytest.raises(errors.BadInput, match="holds a set already"):
    build_images.build(_source([_item(1)]), tmp_path / "set", SETTINGS)
  assert image_files.contents(tmp_path / "set") == before
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.txt").write_text("x")
  with pytest.raises(errors.BadInput, match="not empty, and no set"):
    build_images.build(_source([_item(1)]), tmp_path / "other", SETTINGS)
  assert os.listdir(tmp_path / "other") == ["thesis.txt"]
  with pytest.raises(errors.BadInput, match="not a local folder"):
    build_images.build(_source([_item(1)]), "gs://bucket/set", SETTINGS)


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_what_a_killed_build_left_does_not_open_and_is_replaced(
  tmp_path, moved
):
  items = [_item(i) for i in range(6)]
  whole, out = tmp_path / "whole", tmp_path / "killed"
  build_images.build(_source(items), whole, SETTINGS, shard_size=2)
  building = out / set_folder.BUILDING
  building.mkdir(parents=True)
  names = sorted(os.listdir(whole))
  for i, name in enumerate(n for n in names if n != "manifest.json"):
    target = out if i < moved else building
    (target / name).write_bytes(b"left over")
  (building / array_record_source.MANIFEST).write_text("{}")
  with pytest.raises(errors.BadInput, match=r"no manifest\.json"):
    examples.open_set(out)
  build_images.build(_source(items), out, SETTINGS, shard_size=2)
  assert image_files.contents(out) == image_files.contents(whole)


def test_a_second_build_is_kept_out(tmp_path):
  (tmp_path / set_folder.BUILDING).mkdir()
  with (
    filelock.FileLock(tmp_path / set_folder.BUILDING / "lock"),
    pytest.raises(errors.BadInput, match="another process builds"),
  ):
    build_images.build(_source([_item(0)]), tmp_path, SETTINGS)


def test_a_full_disk_is_a_failed_save(tmp_path, monkeypatch):
  def full(*args, **options):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(array_record_source, "write_shard", full)
  with pytest.raises(errors.CheckpointError, match="No space left"):
    build_images.build(_source([_item(0)]), tmp_path, SETTINGS)
  assert os.listdir(tmp_path) == [set_folder.SKIPPED]
