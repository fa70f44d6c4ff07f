"""Captions of TensorFlow datasets: mocked by TFDS itself, and on disk."""

import pathlib

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import caption_sources, tfds_captions

tf = pytest.importorskip(
  "tensorflow", reason="needs the extra: pip install imagen_jax[data]"
)
tfds = pytest.importorskip(
  "tensorflow_datasets", reason="needs the extra: pip install imagen_jax[data]"
)

TEXTS = [["a red apple", "", "fruit"], [], ["nul \0, שלום", "two\nlines"]]
FLAT = [text for texts in TEXTS for text in texts]
NO_PICTURE = b"cannot be decoded"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A set in the layout of coco_captions, as TFDS keeps it."""
  data_dir = tmp_path_factory.mktemp("tfds")
  folder = data_dir / "pairs" / "1.0.0"
  folder.mkdir(parents=True)
  text = tfds.features.Text()
  features = tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(),
      "image/filename": text,
      "captions": tfds.features.Sequence({"text": text, "id": np.int64}),
      "title": text,
    }
  )
  examples = [
    features.serialize_example(
      {
        "image": NO_PICTURE,
        "image/filename": f"{i}.jpg",
        "captions": [{"text": t, "id": 7} for t in texts],
        "title": f"title {i}",
      }
    )
    for i, texts in enumerate(TEXTS)
  ]
  for split, count in {"train": 3, "val": 1}.items():
    path = folder / f"pairs-{split}.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
      for example in examples[:count]:
        writer.write(example)
  template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=[
      tfds.core.SplitInfo(name="train", shard_lengths=[3], num_bytes=0),
      tfds.core.SplitInfo(name="val", shard_lengths=[1], num_bytes=0),
    ],
    filename_template=template,
    check_data=False,  # it would decode a picture
  )
  return str(data_dir)


def opened(spec, data_dir, field=None):
  return list(
    caption_sources.open_captions(spec, field=field, data_dir=data_dir)
  )


def test_mocked_coco_has_several_captions_an_example():
  with tfds.testing.mock_data(num_examples=3):
    train = list(caption_sources.open_captions("tfds:coco_captions"))
    val = list(caption_sources.open_captions("tfds:coco_captions/2014:val"))
    names = list(tfds_captions.read("coco_captions", field="image/filename"))
  assert train == val  # TFDS makes the same examples for every split
  assert len(train) > len(names) == 3
  assert all(isinstance(text, str) and text for text in train)


def test_coco_gives_the_captions_of_each_example_in_order():
  asked = []

  def as_dataset(self, split, decoders=None, **_):
    asked.append((split, decoders.extract_features(self.info.features)))
    return tf.data.Dataset.from_generator(
      lambda: ({"captions": {"text": texts}} for texts in TEXTS),
      output_signature={"captions": {"text": tf.TensorSpec([None], tf.string)}},
    )

  with tfds.testing.mock_data(as_dataset_fn=as_dataset):
    assert list(caption_sources.open_captions("tfds:coco_captions:val")) == FLAT
  ((split, features),) = asked
  assert split == "val"
  assert list(features) == ["captions"]
  assert list(features["captions"].feature) == ["text"]


def test_a_set_on_disk_is_read_without_its_pictures(data_dir):
  assert opened("tfds:pairs", data_dir) == FLAT
  assert opened("tfds:pairs:1.0.0:val", data_dir) == TEXTS[0]
  assert opened("tfds:pairs:train[1:]", data_dir) == TEXTS[2]
  assert opened("tfds:pairs", data_dir, "title")[2] == "title 2"
  assert opened("tfds:pairs", data_dir, "image/filename")[1] == "1.jpg"
  pictures = tfds.load("pairs", split="train", data_dir=data_dir)
  with pytest.raises(tf.errors.InvalidArgumentError):
    next(iter(pictures))


@pytest.mark.parametrize(
  ("spec", "field", "message"),
  [
    ("tfds:pair", None, "dataset pair: Dataset pair not found"),
    ("tfds:pairs:2.0.0", None, "2.0.0"),
    ("tfds:pairs:test", None, "open split 'test' of the dataset pairs"),
    ("tfds:coco_captions", None, "could not find data .* tfds build coco_capt"),
    (
      "tfds:pairs",
      "captions/texts",
      r"the dataset pairs has no field 'captions/texts'; it has:"
      r" captions/text, image/filename, title\. Did you mean 'captions/text'",
    ),
    ("tfds:pairs", "captions/id", "no field 'captions/id'"),
  ],
)
def test_what_is_not_there(data_dir, spec, field, message):
  with pytest.raises(errors.BadInput, match=message) as caught:
    opened(spec, data_dir, field)
  assert "\n" not in str(caught.value)


def test_a_damaged_set_is_found(data_dir):
  (path,) = pathlib.Path(data_dir).glob("pairs/1.0.0/*val*")
  data = np.frombuffer(path.read_bytes(), np.uint8).copy()
  data[len(data) // 2] ^= 1
  path.write_bytes(data.tobytes())
  with pytest.raises(errors.DataError, match="'val' .* cannot be read"):
    opened("tfds:pairs:val", data_dir)
