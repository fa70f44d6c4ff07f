"""Where captioned images come from, by a short name.

  open_images("pictures")                      a folder: see image_folder
  open_images("pictures", captions="all.csv")
  open_images("laion/{00000..00127}.tar")      WebDataset: see image_shards
  open_images("data/train-*.parquet")          Hugging Face: see image_shards
  open_images("tfds:coco_captions:train")      tfds:NAME[/CONFIG][:SPLIT]
  open_images("seqio:my_task:train", module="my_package.tasks")

Images are read as a stream, in an order that is always the same, and as often
as one likes.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator

from imagen_jax.core import errors
from imagen_jax.data import (
  caption_files,
  image_folder,
  image_item,
  image_seqio,
  image_shards,
  image_tfds,
)

_KINDS = "a folder of images, .tar or .parquet files, tfds:NAME, or seqio:TASK"


@dataclasses.dataclass(frozen=True)
class Images:
  """A stream of captioned images that can be read again."""

  name: str  # short, and the same wherever the files lie
  read: Callable[[], Iterator[image_item.Item]]
  count: int | None  # where it is known beforehand


def open_images(
  spec: str,
  *,
  captions: str | None = None,
  field: str | None = None,
  image_field: str | None = None,
  data_dir: str | None = None,
  module: str | None = None,
) -> Images:
  """Images by path, pattern, or name; see above.

  `captions` is a table for a folder of images, `field` names the caption and
  `image_field` the image within an example, `data_dir` is the folder of TFDS,
  `module` is imported first, so that it registers its seqio tasks.
  """
  if pathlib.Path(spec).is_dir():
    return _folder(pathlib.Path(spec), captions, field)
  if captions is not None:
    raise errors.BadInput(
      f"a table of captions goes with a folder of images, {spec!r} is none;"
      " name a field of the examples instead."
    )
  if spec.startswith("tfds:"):
    return _tfds(spec, field, image_field, data_dir)
  if spec.startswith("seqio:"):
    name, read = image_seqio.open_split(
      spec.removeprefix("seqio:"),
      field=field,
      image_field=image_field,
      module=module,
    )
    return Images(_plain(name), read, None)
  return _files(spec, field, image_field)


def _folder(
  folder: pathlib.Path, captions: str | None, field: str | None
) -> Images:
  table = captions and image_folder.read_table(captions, field)
  return Images(
    _plain(folder.absolute().name),
    lambda: image_folder.read(folder, table, field),
    len(image_folder.find(folder)),
  )


def _files(spec: str, field: str | None, image_field: str | None) -> Images:
  paths = caption_files.find([spec], advice=f"give {_KINDS}.")
  if all(path.lower().endswith(".parquet") for path in paths):
    read = functools.partial(
      image_shards.read_parquet, field=field, image_field=image_field
    )
    count = sum(map(image_shards.count_parquet, paths))
  elif all(path.lower().endswith((".tar", ".tar.gz")) for path in paths):
    read, count = functools.partial(image_shards.read_tar, field=field), None
  else:
    raise errors.BadInput(f"{spec!r} holds no images; give {_KINDS}.")
  name = pathlib.Path(paths[0]).absolute().parent.name
  return Images(
    _plain(name),
    lambda: itertools.chain.from_iterable(map(read, paths)),
    count,
  )


def _tfds(
  spec: str, field: str | None, image_field: str | None, data_dir: str | None
) -> Images:
  match = re.fullmatch(r"tfds:([^:]+(?::\d[\d.*]*)?)(?::(.+))?", spec)
  if match is None:
    raise errors.BadInput(
      f"{spec} names no dataset; write tfds:NAME[/CONFIG][:SPLIT], as in"
      " tfds:coco_captions:val."
    )
  name, split = match[1], match[2] or "train"
  read, count = image_tfds.open_split(
    name, split, field=field, image_field=image_field, data_dir=data_dir
  )
  return Images(_plain(f"{name}-{split}"), read, count)


def _plain(name: str) -> str:
  return re.sub(r"[^\w.-]+", "-", name).strip("-") or "images"
