"""Images and captions out of seqio's tasks and mixtures."""

import io

import numpy as np
import PIL.Image
import pytest

from imagen_jax.cli import data
from imagen_jax.core import errors
from imagen_jax.data import examples, image_sources
from tests import image_files

# Protobuf raises an error of its own where versions do not fit.
seqio = pytest.importorskip("seqio", exc_type=Exception)
tf = pytest.importorskip("tensorflow")

TEXT = tf.TensorSpec((), tf.string)
PIXELS = tf.TensorSpec((None, None, 3), tf.uint8)


@pytest.fixture(autouse=True)
def registry():
  """What a test registers is gone after it."""
  registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
  before = [set(r.names()) for r in registries]
  yield
  for r, names in zip(registries, before, strict=True):
    for name in set(r.names()) - names:
      r.remove(name)


def register(name, rows, spec, features=None, preprocessors=()):
  def dataset(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_generator(lambda: rows, output_signature=spec)

  return seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset, splits=["train", "val"]),
    preprocessors=list(preprocessors),
    output_features=features or {},
  )


def register_files(name="files", count=3):
  rows = [
    {"image": image_files.file(i), "caption": f"text {i}", "id": i}
    for i in range(count)
  ]
  spec = {"image": TEXT, "caption": TEXT, "id": tf.TensorSpec((), tf.int32)}
  return register(name, rows, spec)


def read(spec, **options):
  return list(image_sources.open_images(spec, **options).read())


def test_files_are_kept_to_the_byte_in_an_order_that_stays():
  register_files()
  source = image_sources.open_images("seqio:files")
  items = list(source.read())
  assert (source.name, source.count) == ("files-train", None)
  assert [i.image for i in items] == [image_files.file(i) for i in range(3)]
  assert [i.captions for i in items] == [(f"text {i}",) for i in range(3)]
  assert items[1].key == "files:train/00000001"
  assert list(source.read()) == items == read("seqio:files:train")
  assert read("seqio:files:val")[0].key == "files:val/00000000"


def test_pixels_lose_nothing_and_tokens_are_left_aside():
  pixels = [image_files.pixels(i, 70 + i, 80) for i in range(3)]
  rows = [
    {"image": x, "caption": [1, 2], "caption_pretokenized": f"text {i}"}
    for i, x in enumerate(pixels)
  ]
  tokens = tf.TensorSpec((None,), tf.int32)
  spec = {"image": PIXELS, "caption": tokens, "caption_pretokenized": TEXT}
  vocabulary = seqio.PassThroughVocabulary(10)
  features = {
    "image": seqio.Feature(vocabulary, rank=3, dtype=tf.uint8),
    "caption": seqio.Feature(vocabulary),
  }
  register("pixels", rows, spec, features)
  items = read("seqio:pixels")
  assert [i.captions for i in items] == [(f"text {i}",) for i in range(3)]
  for item, expected in zip(items, pixels, strict=True):
    image = PIL.Image.open(io.BytesIO(item.image))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_features_within_features_and_several_captions():
  rows = [
    {"jpg": image_files.file(i), "captions": {"text": ["a", " ", "b"][:n]}}
    for i, n in enumerate((3, 1, 0))
  ]
  texts = {"text": tf.TensorSpec((None,), tf.string)}
  register("nested", rows, {"jpg": TEXT, "captions": texts})
  assert [i.captions for i in read("seqio:nested")] == [("a", "b"), ("a",), ()]
  named = read("seqio:nested", image_field="jpg", field="captions/text")
  assert named == read("seqio:nested")


def test_of_a_mixture_each_example_comes_once_by_the_names_of_its_tasks():
  register_files("b:few", 1)
  register_files("a", 2)
  seqio.MixtureRegistry.add("mix", [("b:few", 9.0), ("a", 1)])
  source = image_sources.open_images("seqio:mix:train")
  assert source.name == "mix-train"
  assert [item.key for item in source.read()] == [
    "a:train/00000000",
    "a:train/00000001",
    "b:few:train/00000000",
  ]


def test_what_a_preprocessor_draws_is_drawn_from_one_seed():
  @seqio.map_over_dataset(num_seeds=1)
  def draw(example, seed):
    number = tf.random.stateless_uniform(
      (), seed, maxval=1 << 30, dtype="int32"
    )
    return {"image": example["image"], "text": tf.strings.as_string(number)}

  rows = [{"image": image_files.file(i)} for i in range(3)]
  register("drawn", rows, {"image": TEXT}, preprocessors=[draw])
  first, again = read("seqio:drawn"), read("seqio:drawn")
  assert first == again
  assert len({item.captions for item in first}) == 3


def test_faults_of_one_example_are_passed_on():
  good = image_files.pixels(0)
  rows = [
    {"image": good, "text": b"\xff"},
    {"image": good[:, :, :1], "text": b"grey"},
    {"image": good[:0], "text": b"none"},
    {"image": good, "text": b"good"},
  ]
  unknown = tf.TensorSpec((None, None, None), tf.uint8)
  register("faults", rows, {"image": unknown, "text": TEXT})
  items = read("seqio:faults")
  problems = [item.problem for item in items]
  assert problems == ["bad caption", "no image", "no image", ""]
  assert "(72, 96, 1)" in items[1].detail


def test_a_task_that_breaks_off_is_a_data_error():
  def fail(dataset):
    def check(example):
      with tf.control_dependencies(
        [tf.debugging.assert_less(example["id"], 2)]
      ):
        return {name: tf.identity(x) for name, x in example.items()}

    return dataset.map(check)

  rows = [
    {"image": image_files.file(i), "caption": "a", "id": i} for i in range(3)
  ]
  spec = {"image": TEXT, "caption": TEXT, "id": tf.TensorSpec((), tf.int32)}
  register("broken", rows, spec, preprocessors=[fail])
  with pytest.raises(
    errors.DataError, match="seqio task broken cannot be read"
  ):
    read("seqio:broken")


def test_what_is_not_there_is_told_with_what_is():
  register_files()
  spec = {"image": tf.TensorSpec((4, 4, 3), tf.float32), "text": TEXT}
  register("floats", [], spec)
  missing = {"absent": seqio.Feature(seqio.PassThroughVocabulary(10))}
  register("promised", [], spec, missing)
  for name, options, message in (
    ("file", {}, "no task or mixture 'file'; near: files"),
    ("files:test", {}, "seqio:files has no split 'test'; it has: train, val"),
    ("files", {"field": "captions"}, r"it has: caption\. Did you mean 'cap"),
    ("files", {"image_field": "img"}, "no field 'img'; it has: image, caption"),
    ("files", {"image_field": "id"}, r"'id' of the .* is int32 \(\); an image"),
    ("floats", {"image_field": "image"}, r"is float32 \(4, 4, 3\); an image"),
    ("floats", {}, "no field 'image' or .* it has: text"),
    ("promised", {}, "cannot open split 'train' of the .* promised: .* absent"),
    ("files", {"module": "no_such_module"}, "cannot import no_such_module"),
    ("files", {"captions": "a.csv"}, "goes with a folder of images"),
  ):
    with pytest.raises(errors.BadInput, match=message) as caught:
      read(f"seqio:{name}", **options)
    assert "\n" not in str(caught.value)


def test_a_set_is_built_of_a_task_that_a_module_registers(
  tmp_path, monkeypatch
):
  (tmp_path / "image_tasks.py").write_text(
    "from tests.data import image_seqio_test\n"
    "image_seqio_test.register_files('theirs', 5)\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  given = ["--images=seqio:theirs", "--module=image_tasks", "--shard_size=2"]
  data.run(["build", *given, f"--out={tmp_path / 'one'}", "--workers=1"])
  given.remove("--module=image_tasks")  # it is imported once
  data.run(["build", *given, f"--out={tmp_path / 'four'}", "--workers=4"])
  contents = image_files.contents(tmp_path / "one")
  assert contents == image_files.contents(tmp_path / "four")
  rows = examples.open_set(tmp_path / "one").read_all()
  assert [(row.caption, row.image) for row in rows] == [
    (f"text {i}", image_files.file(i)) for i in range(5)
  ]
