"""Captions of a TensorFlow dataset, without decoding its pictures.

  read("coco_captions", "val")       every caption of every example, in order

The dataset must be on disk, as `tfds build NAME` leaves it. A field is a path
of features, "captions/text"; where none is named it is one of `PREFERRED`.
"""

from collections.abc import Iterator, Mapping

from imagen_jax.core import errors
from imagen_jax.data import caption_fields

PREFERRED = ("captions/text", *caption_fields.PREFERRED)


def read(
  name: str,
  split: str = "train",
  *,
  field: str | None = None,
  data_dir: str | None = None,
) -> Iterator[str | None]:
  """The captions of NAME, NAME/CONFIG or NAME:VERSION, shard after shard."""
  try:
    import tensorflow as tf
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.BadInput(
      f"the dataset {name} needs TensorFlow Datasets ({error}); run: pip"
      " install tensorflow-cpu tensorflow-datasets"
    ) from error
  # TFDS asserts that a version exists, and that the data is there.
  try:
    builder = tfds.builder(name, data_dir=data_dir)
    keys = dict(sorted(_leaves(builder.info.features.get_tensor_info())))
    chosen = caption_fields.choose(
      field, list(keys), where=f"the dataset {name}", preferred=PREFERRED
    )
    wanted: dict | bool = True
    for key in reversed(keys[chosen]):
      wanted = {key: wanted}
    dataset = builder.as_dataset(
      split=split,
      decoders=tfds.decode.PartialDecoding(wanted),
      # In memory it would not be a stream.
      read_config=tfds.ReadConfig(try_autocache=False),
    )
  except errors.ImagenError:
    raise
  except (ValueError, AssertionError) as error:
    raise errors.BadInput(
      f"cannot open split {split!r} of the dataset {name}: {_first(error)}"
      f" Datasets are built by: tfds build {name}"
    ) from error
  try:
    for number, example in enumerate(tfds.as_numpy(dataset)):
      where = f"example {number} of {name}"
      yield from caption_fields.read(example, chosen, where=where)
  except tf.errors.OpError as error:
    raise errors.DataError(
      f"split {split!r} of the dataset {name} cannot be read: {_first(error)}"
    ) from error


def _leaves(
  features: Mapping, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
  """("captions/text", ("captions", "text")) for each feature of texts."""
  for key, value in features.items():
    path = (*above, key)
    if isinstance(value, Mapping):
      yield from _leaves(value, path)
    elif value.tf_dtype.name == "string":
      yield "/".join(path), path


def _first(error: Exception) -> str:
  """The first line: TFDS lists all datasets it knows after it."""
  return (str(error).splitlines() or [""])[0][:300]
