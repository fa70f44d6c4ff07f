"""Images and captions of a TensorFlow dataset, as encoded as they are stored.

The dataset must be on disk, as `tfds build NAME` leaves it, in any of the file
formats of TFDS. In the layout of coco_captions an image has several captions,
and all of them are kept.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.core import errors
from imagen_jax.data import caption_fields, image_item, tfds_captions

_NAMES = ("image/filename", "file_name", "filename")  # of images


class Split(NamedTuple):
  """Examples to be read as often as one likes, in an order that stays."""

  read: Callable[[], Iterator[image_item.Item]]
  count: int | None


def open_split(
  name: str,
  split: str,
  *,
  field: str | None = None,
  image_field: str | None = None,
  data_dir: str | None = None,
) -> Split:
  """A split of NAME, NAME/CONFIG or NAME:VERSION."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.BadInput(
      f"the dataset {name} needs TensorFlow Datasets ({error}); run: pip"
      " install tensorflow-cpu tensorflow-datasets"
    ) from error
  # TFDS asserts that a version exists, and that the data is there.
  try:
    builder = tfds.builder(name, data_dir=data_dir)
    fields = _fields(builder.info.features, name, image_field, field)
    examples, count = _examples(builder, split, fields)
  except errors.ImagenError:
    raise
  except (ValueError, AssertionError, KeyError) as error:
    raise errors.BadInput(
      f"cannot open split {split!r} of the dataset {name}: {_first(error)}"
      f" Datasets are built by: tfds build {name}"
    ) from error
  read = functools.partial(_read, examples, f"{name}:{split}", fields)
  return Split(read, count)


class _Fields(NamedTuple):
  image: str
  caption: str


def _fields(
  features: Any, name: str, image_field: str | None, field: str | None
) -> _Fields:
  """The asked fields, or the first image and the usual captions."""
  import tensorflow_datasets as tfds

  where = f"the dataset {name}"
  images = [
    k for k, f in features.items() if isinstance(f, tfds.features.Image)
  ]
  texts = sorted(_leaves(features.get_tensor_info()))
  return _Fields(
    caption_fields.choose(
      image_field, images, where=where, preferred=images[:1] or ["image"]
    ),
    caption_fields.choose(
      field, texts, where=where, preferred=tfds_captions.PREFERRED
    ),
  )


def _examples(
  builder: Any, split: str, fields: _Fields
) -> tuple[Iterable, int | None]:
  """Examples of a split, the images not decoded, and how many there are."""
  import tensorflow_datasets as tfds

  decoders = {fields.image: tfds.decode.SkipDecoding()}
  # ArrayRecord cannot be read in part, and everything else can.
  if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    wanted = _wanted(fields, builder.info.features)
    decoders = tfds.decode.PartialDecoding(wanted, decoders=decoders)
  try:
    source = builder.as_data_source(split=split, decoders=decoders)
    return source, len(source)
  except NotImplementedError:  # the files have no random access
    dataset = builder.as_dataset(
      split=split,
      decoders=decoders,
      # In memory it would not be a stream.
      read_config=tfds.ReadConfig(try_autocache=False),
    )
    count = int(dataset.cardinality())  # negative where it is not known
    return tfds.as_numpy(dataset), count if count >= 0 else None


def _wanted(fields: _Fields, features: Any) -> dict[str, Any]:
  """What is read, as TFDS has it: {"captions": {"text": True}, ...}."""
  head, *rest = fields.caption.split("/")
  if fields.caption in features:  # a name that holds a slash
    head, rest = fields.caption, []
  caption = True
  for key in reversed(rest):
    caption = {key: caption}
  names = {name: True for name in _NAMES if name in features}
  return names | {fields.image: True, head: caption}


def _read(
  examples: Iterable, name: str, fields: _Fields
) -> Iterator[image_item.Item]:
  import tensorflow as tf

  try:
    for number, example in enumerate(examples):
      yield _item(example, f"{name}/{number:08d}", fields)
  except (tf.errors.OpError, RuntimeError) as error:  # the latter ArrayRecord's
    raise errors.DataError(
      f"the dataset {name} cannot be read: {_first(error)}"
    ) from error


def _item(example: Mapping, key: str, fields: _Fields) -> image_item.Item:
  image = example[fields.image]
  if isinstance(image, np.ndarray):  # pixels, as a mock may make them
    image = image_item.png(image.squeeze())
  plain = _plain({k: v for k, v in example.items() if k != fields.image})
  try:
    for name in filter(plain.get, _NAMES):
      key += f"/{caption_fields.text(plain[name], where=name)}"
    texts = caption_fields.read(plain, fields.caption, where=key)
    return image_item.Item(key, image, image_item.given(texts))
  except errors.ImagenError as error:
    return image_item.Item(key, problem="bad caption", detail=str(error))


def _plain(value: object) -> object:
  """Without arrays: texts of TFDS come in, as and out of them."""
  if isinstance(value, Mapping):
    return {name: _plain(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return [_plain(inner) for inner in value]
  return value.tolist() if isinstance(value, np.ndarray) else value


def _leaves(features: Mapping, above: str = "") -> Iterator[str]:
  """The paths of all features, as in captions/text."""
  for key, value in features.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{above}{key}/")
    else:
      yield above + key


def _first(error: Exception) -> str:
  """The first line: TFDS lists all datasets it knows after it."""
  return (str(error).splitlines() or [""])[0][:300]
