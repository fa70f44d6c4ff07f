"""Captions by the name of their source."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import caption_sources, emoji, pipeline


def test_files_can_be_read_again(tmp_path):
  for name in ("b", "a"):
    (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} two\n")
  path = tmp_path / "c.jsonl"
  path.write_text(json.dumps({"text": "c"}))
  captions = caption_sources.open_captions([f"{tmp_path}/*.txt", str(path)])
  expected = ["a one", "", "a two", "b one", "", "b two", "c"]
  assert list(captions) == list(captions) == expected
  assert next(iter(captions)) == "a one"
  one = caption_sources.open_captions(str(path))
  assert one.name == str(path)
  assert list(one) == ["c"]


def test_sources_without_captions(tmp_path, caplog):
  path = tmp_path / "a.jsonl"
  path.write_text('{"text": null}\n{"text": ""}\n{"text": null}')
  with caplog.at_level(logging.WARNING):
    assert list(caption_sources.open_captions(str(path))) == [""]
  assert "2 examples have no caption" in caplog.text
  for content in ("", '{"text": null}', '{"text": []}'):
    path.write_text(content)
    with pytest.raises(errors.DataError, match="a.jsonl holds no captions"):
      list(caption_sources.open_captions(str(path)))


@pytest.mark.parametrize("spec", ["emojis", "tfds", ["emoji", "a.txt"], []])
def test_an_unknown_source_lists_the_known_ones(spec):
  with pytest.raises(errors.BadInput, match=r"tfds:NAME|names no file"):
    caption_sources.open_captions(spec)


def test_names_of_tfds():
  assert {
    rest: caption_sources._split(rest)
    for rest in (
      "coco_captions",
      "coco_captions:val",
      "coco_captions/2014:1.1.0",
      "coco_captions/2014:1.*.*:train[:10%]+val[5:]",
    )
  } == {
    "coco_captions": ("coco_captions", "train"),
    "coco_captions:val": ("coco_captions", "val"),
    "coco_captions/2014:1.1.0": ("coco_captions/2014:1.1.0", "train"),
    "coco_captions/2014:1.*.*:train[:10%]+val[5:]": (
      "coco_captions/2014:1.*.*",
      "train[:10%]+val[5:]",
    ),
  }
  with pytest.raises(errors.BadInput, match="tfds: names no dataset"):
    caption_sources.open_captions("tfds:")


@pytest.mark.parametrize(
  ("spec", "module", "message"),
  [
    ("tfds:coco_captions", "tensorflow_datasets", "pip install tensorflow-cpu"),
    ("seqio:any", "seqio", "pip install seqio"),
    ("a.parquet", "pyarrow", "pip install pyarrow"),
  ],
)
def test_what_to_install(tmp_path, monkeypatch, spec, module, message):
  (tmp_path / "a.parquet").write_bytes(b"")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(errors.BadInput, match=message):
    list(caption_sources.open_captions(spec))


def test_emoji_captions_are_all_that_the_demo_reads():
  captions = list(caption_sources.open_captions("emoji"))
  assert len(captions) == 3121 * 12
  assert set(emoji.showcase_prompts()) <= set(captions)
  batches = pipeline.make(batch_size=64, resolution=8)
  objects, colours = batches.draw(np.arange(2000))
  drawn = {
    batches.emoji.caption(int(i), int(c))
    for i, c in zip(objects, colours, strict=True)
  }
  assert drawn <= set(captions)
  assert len(drawn) > 1000


def test_tensorflow_is_not_imported_for_files_and_emoji():
  code = (
    "import sys\nfrom imagen_jax.data import caption_sources as c\n"
    "next(iter(c.open_captions('emoji')))\n"
    "heavy = ('tensorflow', 'tensorflow_datasets', 'seqio', 'pyarrow')\n"
    "print([m for m in heavy if m in sys.modules])"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == "[]"
