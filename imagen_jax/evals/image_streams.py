"""Where images that are measured come from, by a short name.

  open_stream("samples")            a folder of PNG, JPEG, WebP, and those below
  open_stream("sets/colours")       what the manifest of a set of images names
  open_stream("sets/pictures")      a set that `imagen data build` made
  open_stream("val/{000..9}.tar")   and all else of data/image_sources
  open_stream("emoji:128")          the set that is shipped, at 128 pixels

Images come as encoded files, in an order that is always the same. Files of a
folder that are no images are passed over and counted, and so is the contact
sheet of `imagen sample`. Captions are not read.

`emoji` is each of the 3,121 objects once, on one of the 12 colours that the
hash of its name chooses.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.core import contact_sheet, errors, images
from imagen_jax.data import (
  array_record_source,
  colours,
  decode,
  emoji,
  examples,
  image_folder,
  image_item,
  image_sources,
  transforms,
)
from imagen_jax.evals import image_set


@dataclasses.dataclass(frozen=True)
class Stream:
  """Encoded images that can be read again."""

  name: str
  read: Callable[[], Iterator[image_item.Item]]
  count: int | None  # where it is known beforehand
  others: int = 0  # files that are passed over


def open_stream(spec: str, *, count: int | None = None) -> Stream:
  """The images of `spec`, or the first `count` of them."""
  stream = _open(spec)
  if stream.count == 0:
    raise errors.BadInput(
      f"{spec!r} holds no images; give a folder of PNG, JPEG or WebP files."
    )
  if count is None:
    return stream
  if count < 1:
    raise errors.BadInput(f"{count} images of {spec!r}; take at least 1.")
  if stream.count is not None and stream.count < count:
    raise errors.BadInput(
      f"{spec!r} holds {stream.count:,} images, and {count:,} are asked for;"
      " make more, or ask for fewer."
    )
  return dataclasses.replace(
    stream, read=lambda: _first(stream, count), count=count
  )


def sheet(
  stream: Stream, count: int = 16, side: int = 96
) -> UInt8[np.ndarray, "H W 3"]:
  """The first images that can be read, each within `side` pixels."""
  shown = []
  for item in itertools.islice(stream.read(), 2 * count):
    try:
      pixels = decode.decode(item.image)
    except decode.Skip:
      continue
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    paper = np.full((side, side, 3), 255, np.uint8)
    paper[: image.height, : image.width] = np.asarray(image)
    shown.append(paper)
  if not shown:
    return np.full((side, side, 3), 255, np.uint8)
  return images.grid(np.stack(shown[:count]), 8)


def _open(spec: str) -> Stream:
  if re.fullmatch(r"emoji(:\d+)?", spec):
    return _emoji(spec, int(spec.partition(":")[2] or 128))
  path = pathlib.Path(spec)
  if not path.is_dir():
    found = image_sources.open_images(spec)
    return Stream(found.name, found.read, found.count)
  if image_set.has_manifest(path):
    return _image_set(path)
  if (path / array_record_source.MANIFEST).is_file():
    return _set(path)
  found = [name for name in image_folder.find(path) if not _is_sheet(name)]
  return Stream(
    path.absolute().name,
    lambda: (
      item for item in image_folder.read(path, {}) if not _is_sheet(item.key)
    ),
    len(found),
    _files(path) - len(found),
  )


def _is_sheet(name: str) -> bool:
  return pathlib.PurePosixPath(name).name == contact_sheet.NAME


def _first(stream: Stream, count: int) -> Iterator[image_item.Item]:
  """That many, or BadInput where a stream of unknown length ends before."""
  seen = 0
  for item in itertools.islice(stream.read(), count):
    seen += 1
    yield item
  if seen < count:
    raise errors.BadInput(
      f"{stream.name!r} holds {seen:,} images, and {count:,} are asked for;"
      " make more, or ask for fewer."
    )


def _files(folder: pathlib.Path) -> int:
  """All that are not hidden, as `image_folder` looks for them."""
  count = 0
  for _, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    count += sum(not name.startswith(".") for name in names)
  return count


def _image_set(folder: pathlib.Path) -> Stream:
  """Images that no manifest names are of other settings, and passed over."""
  names = list(dict.fromkeys(e.file for e in image_set.read(folder).entries))

  def read() -> Iterator[image_item.Item]:
    for name in names:
      yield image_item.Item(name, (folder / name).read_bytes())

  return Stream(
    folder.absolute().name, read, len(names), _files(folder) - len(names)
  )


def _set(folder: pathlib.Path) -> Stream:
  source = examples.open_set(folder)

  def read() -> Iterator[image_item.Item]:
    for i in range(len(source)):
      example = source[i]
      yield image_item.Item(example.key, example.image)

  return Stream(source.manifest.name, read, len(source))


def _emoji(spec: str, resolution: int) -> Stream:
  objects = emoji.open_emoji()
  store = objects.at(resolution)
  table = colours.table()

  def read() -> Iterator[image_item.Item]:
    for i, name in enumerate(objects.names):
      digest = hashlib.sha256(name.encode()).digest()
      colour = int.from_bytes(digest[:8], "big") % len(table)
      pixels = transforms.paste(store.row(i)[None], table[colour][None])[0]
      yield image_item.Item(objects.caption(i, colour), image_item.png(pixels))

  return Stream(spec, read, len(objects))
