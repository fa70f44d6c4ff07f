"""Tests of imagen_jax.data.image_sources and the readers behind it."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.data import caption_files, image_item, image_sources
from tests import image_files


def _read(spec, **options):
  return list(image_sources.open_images(str(spec), **options).read())


def _told(items):
  return {item.key: item.captions for item in items}


def test_a_folder_is_read_in_order_with_what_lies_beside(tmp_path):
  folder = image_files.write_folder(tmp_path / "pets", 4)
  (folder / "two.PNG").write_bytes(b"png")
  (folder / "two.txt").write_text("first\n\n  \nsecond line\n")
  (folder / "data.webp").write_bytes(b"webp")
  (folder / "data.json").write_text(json.dumps({"text": ["a", "b"]}))
  (folder / "alone.jpg").write_bytes(b"jpg")
  (folder / "notes.md").write_text("no image")
  (folder / "._000.jpg").write_bytes(b"hidden")
  source = image_sources.open_images(str(folder))
  items = list(source.read())
  assert (source.name, source.count) == ("pets", len(items))
  assert _told(items) == {
    "000.jpg": ("picture number 0",),
    "001.jpg": ("picture number 1",),
    "003.jpg": ("picture number 3",),
    "alone.jpg": (),
    "data.webp": ("a", "b"),
    "deep/er/002.jpg": ("picture number 2",),
    "two.PNG": ("first", "second line"),
  }
  assert items[0].image == image_files.file(0)
  assert list(source.read()) == items


def test_faults_of_one_image_are_passed_on(tmp_path, monkeypatch):
  for name in ("a", "b", "c", "d"):
    (tmp_path / f"{name}.jpg").write_bytes(b"x" * 9)
  (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
  (tmp_path / "b.json").write_text("{")
  (tmp_path / "c.json").write_text('{"title": "x"}')
  (tmp_path / "d.jpg").write_bytes(b"x" * 10)
  (tmp_path / "e.jpg").symlink_to(tmp_path / "nowhere.jpg")
  monkeypatch.setattr(image_item, "MAX_BYTES", 9)
  told = [(i.key, i.problem, i.detail) for i in _read(tmp_path)]
  assert [t[:2] for t in told] == [
    ("a.jpg", "bad caption"), ("b.jpg", "bad caption"),
    ("c.jpg", "bad caption"), ("d.jpg", "file too large"),
    ("e.jpg", "no image"),
  ]  # fmt: skip
  assert "not UTF-8" in told[0][2] and "title" in told[2][2]


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("t.csv", 'file_name,caption\n000.jpg,"a, b"\ndeep/er/002.jpg,c\n001,d\n'),
    ("t.tsv", "image\ttext\n000.jpg\ta, b\n002.jpg\tc\n001\td\n"),
    (
      "t.jsonl",
      '{"key": "000", "caption": "a, b"}\n{"key": "002", "caption": "c"}\n'
      '{"key": "001", "caption": "d"}\n',
    ),
  ],
)
def test_a_table_of_captions(tmp_path, name, text):
  folder = image_files.write_folder(tmp_path / "pets", 4)
  (tmp_path / name).write_text(text)
  assert _told(_read(folder, captions=str(tmp_path / name))) == {
    "000.jpg": ("a, b",),
    "001.jpg": ("d",),
    "003.jpg": (),
    "deep/er/002.jpg": ("c",),
  }


def test_a_table_with_several_rows_for_an_image_or_a_named_column(tmp_path):
  folder = image_files.write_folder(tmp_path / "pets", 1)
  table = tmp_path / "t.csv"
  table.write_text("filename,caption,alt\n000.jpg,a,x\n000.jpg,b,y\n")
  assert _read(folder, captions=str(table))[0].captions == ("a", "b")
  named = _read(folder, captions=str(table), field="alt")
  assert named[0].captions == ("x", "y")
  table.write_text("what,caption\n000.jpg,a\n")
  with pytest.raises(errors.BadInput, match="names no images; give it a col"):
    _read(folder, captions=str(table))
  table = tmp_path / "t.jsonl"
  table.write_text('{"file": "000.jpg", "caption": ["a", "b"]}\n')
  with pytest.raises(errors.DataError, match="a row for each caption"):
    _read(folder, captions=str(table))


def _samples():
  return {
    "000.jpg": image_files.file(0), "000.txt": b" a cat\nasleep\n",
    "000.json": b'{"caption": "other"}',
    "b/1.x.png": image_files.file(1, "png"),
    "b/1.PNG": image_files.file(1, "png"), "b/1.json": b'{"caption": "dog"}',
    "2.txt": b"no picture",
    "3.webp": b"undecodable", "3.txt": b"  \n",
    "4.jpg": b"x", "4.txt": b"\xff",
  }  # fmt: skip


@pytest.mark.parametrize("name", ["0007.tar", "0007.tar.gz"])
def test_webdataset_archives(tmp_path, name):
  path = image_files.write_tar(tmp_path / "shards" / name, _samples())
  source = image_sources.open_images(str(tmp_path / "shards" / "*.tar*"))
  items = list(source.read())
  stem = name.rpartition(".")[0]
  assert (source.name, source.count) == ("shards", None)
  assert [item.key for item in items] == [
    f"{stem}/{key}" for key in ("000", "b/1", "2", "3", "4")
  ]
  assert [item.captions for item in items[:2]] == [
    (" a cat\nasleep",),
    ("dog",),
  ]
  assert [item.image for item in items[:2]] == [
    image_files.file(0), image_files.file(1, "png"),
  ]  # fmt: skip
  assert [item.problem for item in items] == [
    "", "", "no image", "", "bad caption",
  ]  # fmt: skip
  assert items[3].captions == () and items[2].detail == "only txt"
  named = list(_read(path, field="caption"))
  assert [item.captions for item in named[:2]] == [("other",), ("dog",)]


def test_captions_are_those_that_imagen_embed_reads(tmp_path):
  samples = {k: v for k, v in _samples().items() if k[0] in "0b"}
  path = str(image_files.write_tar(tmp_path / "a.tar", samples))
  ours = [text for item in _read(path) for text in item.captions]
  assert ours == list(caption_files.read(path))


@pytest.mark.parametrize("cut", [300, 1400, 5000])
def test_a_damaged_archive_is_a_data_error(tmp_path, cut):
  path = image_files.write_tar(tmp_path / "a.tar", _samples())
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(errors.DataError, match=r"a.tar cannot be read"):
    _read(path)


def test_parquet_as_hugging_face_writes_it(tmp_path):
  pyarrow = pytest.importorskip("pyarrow", reason="of the extra 'data'")
  from pyarrow import parquet

  files = [image_files.file(i) for i in range(40)]
  rows = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(files)]
  rows[3] = {"bytes": None, "path": "elsewhere.jpg"}
  texts = [[f"text {i}", f"more {i}"] for i in range(39)] + [None]
  folder = tmp_path / "hf"
  folder.mkdir()
  table = pyarrow.table({"image": rows, "captions": texts})
  parquet.write_table(table, folder / "train-0.parquet")
  plain = {"jpg": files[:2], "text": ["a", "b"], "png": files[:2]}
  parquet.write_table(pyarrow.table(plain), folder / "train-1.parquet")

  items = _read(folder / "train-0.parquet", field="captions")
  assert [i.image for i in items if not i.problem] == files[:3] + files[4:]
  assert (items[3].problem, items[3].key) == ("no image", "train-0/00000003")
  assert items[5].captions == ("text 5", "more 5") and items[39].captions == ()
  source = image_sources.open_images(str(folder / "train-1.parquet"))
  assert (source.name, source.count) == ("hf", 2)
  assert [(i.image, i.captions) for i in source.read()] == [
    (files[0], ("a",)), (files[1], ("b",)),
  ]  # fmt: skip
  with pytest.raises(errors.BadInput, match="no field 'caption' or 'text'"):
    _read(folder / "train-0.parquet")
  with pytest.raises(errors.BadInput, match="no field 'img'"):
    _read(folder / "train-1.parquet", image_field="img")
  (folder / "train-2.parquet").write_bytes(b"PAR1xxxx")
  with pytest.raises(errors.DataError, match="is not Parquet"):
    _read(folder / "train-2.parquet")


@pytest.mark.parametrize(
  ("spec", "options", "message"),
  [
    ("nowhere", {}, "no file nowhere; give a folder of images, .tar"),
    ("nowhere/*.tar", {}, "there is no file"),
    ("a.csv", {}, "holds no images; give a folder"),
    ("a.csv", {"captions": "b.csv"}, "goes with a folder of images"),
    ("tfds::train", {}, "names no dataset"),
  ],
)
def test_bad_input(tmp_path, monkeypatch, spec, options, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.csv").write_text("caption\nx\n")
  with pytest.raises(errors.BadInput, match=message) as caught:
    _read(spec, **options)
  assert "\n" not in str(caught.value)


def _tfds():
  why = "needs the extra: pip install imagen_jax[data]"
  pytest.importorskip("tensorflow", reason=why)
  return pytest.importorskip("tensorflow_datasets", reason=why)


def test_mocked_coco_gives_images_with_all_their_captions():
  tfds = _tfds()
  with tfds.testing.mock_data(num_examples=3):
    source = image_sources.open_images("tfds:coco_captions/2014:val")
    items = list(source.read())
    assert list(source.read()) == items
    with pytest.raises(errors.BadInput, match=r"no field 'captions/txt'; it"):
      _read("tfds:coco_captions:val", field="captions/txt")
  assert source.name == "coco_captions-2014-val"
  assert len(items) == 3 and len({item.key for item in items}) == 3
  for item in items:
    assert item.captions and all(isinstance(t, str) for t in item.captions)
    PIL.Image.open(io.BytesIO(item.image)).load()


@pytest.mark.parametrize("form", ["tfrecord", "array_record"])
def test_a_tensorflow_dataset_on_disk_gives_its_files(tmp_path, form):
  tfds = _tfds()
  text = tfds.features.Text()
  features = tfds.features.FeaturesDict({
    "image": tfds.features.Image(),
    "image/filename": text,
    "captions": tfds.features.Sequence({"text": text, "id": np.int64}),
  })  # fmt: skip
  folder = tmp_path / "pairs" / "1.0.0"
  folder.mkdir(parents=True)
  path = folder / f"pairs-train.{form}-00000-of-00001"
  rows = [
    features.serialize_example({
      "image": image_files.file(i),
      "image/filename": f"{i}.jpg",
      "captions": [{"text": f"{t} {i}", "id": 1} for t in "ab"[: 2 - i // 2]],
    })
    for i in range(3)
  ]  # fmt: skip
  adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[
    tfds.core.file_adapters.FileFormat(form)
  ]
  adapter.write_examples(path, enumerate(rows))
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=[
      tfds.core.SplitInfo(name="train", shard_lengths=[3], num_bytes=0)
    ],
    filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    check_data=False,
  )
  spec, where = "tfds:pairs", {"data_dir": str(tmp_path)}
  source = image_sources.open_images(spec, **where)
  items = list(source.read())
  assert (source.count, source.name) == (3, "pairs-train")
  assert [i.image for i in items] == [image_files.file(i) for i in range(3)]
  assert items[0].key == "pairs:train/00000000/0.jpg"
  assert [item.captions for item in items] == [
    ("a 0", "b 0"), ("a 1", "b 1"), ("a 2",),
  ]  # fmt: skip
  part = image_sources.open_images(f"{spec}:train[1:]", **where)
  assert part.count == 2 and next(part.read()).captions == ("a 1", "b 1")
  with pytest.raises(errors.BadInput, match="open split 'test' of the dataset"):
    _read(f"{spec}:test", **where)
  data = bytearray(path.read_bytes())
  data[data.index(b"\xff\xd8\xff") + 700] ^= 1  # in the first image
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match="pairs:train cannot be read"):
    _read(spec, **where)
