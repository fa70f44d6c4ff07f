"""Images and captions of a seqio task or mixture.

An image is a file in bytes, which is kept as it is, or pixels in uint8 [h w 3],
which become PNG and lose nothing. All captions of an image are kept.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.core import errors
from imagen_jax.data import (
  caption_fields,
  image_item,
  image_shards,
  seqio_captions,
  seqio_tasks,
)

_IMAGES = (*image_shards.IMAGE_FIELDS, "image/encoded")
_CAPTIONS = ("captions/text", *seqio_captions.PREFERRED)


class Split(NamedTuple):
  """Examples to be read as often as one likes, in an order that stays."""

  name: str
  read: Callable[[], Iterator[image_item.Item]]


def open_split(
  name: str,
  *,
  field: str | None = None,
  image_field: str | None = None,
  module: str | None = None,
) -> Split:
  """A split of TASK_OR_MIXTURE[:SPLIT]; see `seqio_tasks`."""
  found = seqio_tasks.open_name(name, module=module)
  readers = [
    functools.partial(
      _read, task, found.split, _fields(task, image_field, field)
    )
    for task in found.tasks
  ]
  return Split(
    f"{found.name}-{found.split}",
    lambda: itertools.chain.from_iterable(read() for read in readers),
  )


class _Fields(NamedTuple):
  image: str
  caption: str


def _fields(
  task: seqio_tasks.Task, image_field: str | None, field: str | None
) -> _Fields:
  """The asked fields, or those of the usual names."""
  where = f"the seqio task {task.name}"
  specs = {name: found.spec for name, found in task.fields.items()}
  images = [name for name, spec in specs.items() if _may_be_image(spec)]
  if image_field in specs and image_field not in images:
    spec = specs[image_field]
    raise errors.BadInput(
      f"{image_field!r} of {where} is {spec.dtype.name} {spec.shape}; an image"
      " is a file in bytes, or uint8 [h w 3]."
    )
  image = caption_fields.choose(
    image_field, images, where=f"{where}, of images,", preferred=_IMAGES
  )
  texts = [
    name
    for name, spec in specs.items()
    if spec.dtype.name == "string" and name != image
  ]
  caption = caption_fields.choose(
    field, texts, where=f"{where}, of texts,", preferred=_CAPTIONS
  )
  return _Fields(image, caption)


def _may_be_image(spec: Any) -> bool:
  """One file, or pixels; what is not known of a shape is known later."""
  if spec.dtype.name == "string":
    return spec.shape.is_compatible_with([])
  return spec.dtype.name == "uint8" and spec.shape.is_compatible_with(
    [None, None, 3]
  )


def _read(
  task: seqio_tasks.Task, split: str, fields: _Fields
) -> Iterator[image_item.Item]:
  for number, (image, texts) in enumerate(task.read(fields)):
    yield _item(f"{task.name}:{split}/{number:08d}", image, texts)


def _item(
  key: str, image: bytes | np.ndarray, texts: bytes | np.ndarray
) -> image_item.Item:
  if isinstance(image, np.ndarray):
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
      detail = f"pixels of shape {image.shape}"
      return image_item.Item(key, problem="no image", detail=detail)
    image = image_item.png(image)
  if len(image) > image_item.MAX_BYTES:
    return image_item.too_large(key, len(image))
  try:
    captions = image_item.given(caption_fields.texts(texts, where=key))
    return image_item.Item(key, image, captions)
  except errors.ImagenError as error:
    return image_item.Item(key, problem="bad caption", detail=str(error))
