"""Tests of imagen_jax.data.build_emoji, on packages made here."""

import io
import json
import tarfile

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.data import array_record_source, build_emoji, emoji

ENTRIES = [
  {
    "label": "crab",
    "hexcode": "1F980",
    "tags": ["zodiac"],
    "group": 3,
    "order": 9,
  },
  {
    "label": "sun",
    "hexcode": "2600-FE0F",
    "tags": ["bright"],
    "group": 5,
    "order": 4,
  },
  {"label": "flag", "hexcode": "1F3C1", "tags": [], "group": 9, "order": 1},
  {
    "label": "nose",
    "hexcode": "1F443",
    "tags": ["smell"],
    "group": 1,
    "order": 6,
    "skins": [
      {
        "label": "nose: dark skin tone",
        "hexcode": "1F443-1F3FF",
        "group": 1,
        "order": 7,
      }
    ],
  },
]
IMAGES = {
  "1f980": 256,
  "2600": 264,
  "1f3c1": 256,
  "1f443": 256,
  "1f443-1f3ff": 256,
  "ffff": 256,
}


def _webp(height):
  pixels = np.zeros((height, 256, 4), np.uint8)
  pixels[height // 2] = 255
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, "webp", lossless=True)
  return buffer.getvalue()


def _tar(path, members):
  with tarfile.open(path, "w:gz") as archive:
    for name, data in members.items():
      info = tarfile.TarInfo(f"package/{name}")
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


@pytest.fixture
def rows(tmp_path):
  art = {f"assets/{k}.webp": _webp(v) for k, v in IMAGES.items()}
  fluent = _tar(tmp_path / "a.tgz", art | {"README.md": b"#"})
  names = {"en/data.json": json.dumps(ENTRIES).encode()}
  entries = build_emoji.read_entries(_tar(tmp_path / "b.tgz", names))
  return build_emoji.read_records(fluent, entries)


def test_matching_order_tags_and_groups(rows):
  assert [row.label for row in rows] == [
    "sun",
    "nose",
    "nose: dark skin tone",
    "crab",
  ]
  assert rows[2].base == rows[1].base == "1f443"
  assert rows[2].tags == ("smell",)


def test_square_keeps_bytes_or_cuts_the_centre(rows):
  assert rows[3].image == _webp(256)
  with PIL.Image.open(io.BytesIO(rows[0].image)) as image:
    assert image.size == (256, 256)
    assert np.asarray(image)[128].min() == 255


def test_the_written_set_opens_and_is_the_same_each_time(rows, tmp_path):
  folders = [tmp_path / "one", tmp_path / "two"]
  for folder in folders:
    build_emoji.write_set(folder, rows)
  opened = [emoji.open_emoji(folder) for folder in folders]
  assert opened[0].fingerprint == opened[1].fingerprint
  assert list(opened[0].records) == rows
  manifest = array_record_source.read_manifest(folders[0])
  assert sum(shard.records for shard in manifest.shards) == 4


def test_another_archive_is_refused(tmp_path):
  package = "emojibase-data@17.0.0"
  path = tmp_path / "x.tgz"
  with pytest.raises(errors.BadInput, match=f"npm pack {package}"):
    build_emoji.check_archive(path, package)
  path.write_bytes(b"x")
  with pytest.raises(errors.DataError, match="has SHA-256 2d711642b726"):
    build_emoji.check_archive(path, package)
