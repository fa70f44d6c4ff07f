"""Images with the caption of each, from whatever holds both.

A folder with a manifest, or with PNG files of `imagen sample`, says its prompts
itself (`image_set`). Captions may also lie beside the images or in a table, and
WebDataset, Parquet and TFDS have them in the example (data/image_sources). Of
several captions of one image the first is taken.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

from imagen_jax.core import errors
from imagen_jax.data import image_item, image_sources
from imagen_jax.evals import image_set, image_streams


@dataclasses.dataclass(frozen=True)
class Captioned:
  """A stream, and the captions by key of what has been read of it."""

  stream: image_streams.Stream
  captions: dict[str, str]


def open_images(spec: str, table: str | None = None) -> Captioned:
  """The captioned images of a folder, of files or of a dataset."""
  known = table is None and pathlib.Path(spec).is_dir()
  entries = _entries(spec) if known else None
  if entries is not None:
    return _recorded(pathlib.Path(spec), entries)
  images = image_sources.open_images(spec, captions=table)
  captions: dict[str, str] = {}

  def read() -> Iterator[image_item.Item]:
    for item in images.read():
      if item.problem == "bad caption" or not (item.captions or item.problem):
        raise errors.BadInput(
          f"image {item.key!r} of {spec!r} has no caption"
          f"{f' ({item.detail})' if item.detail else ''}; give each one, beside"
          " it or in a table (--captions)."
        )
      if item.captions:
        captions[item.key] = item.captions[0]
      yield item

  return Captioned(
    image_streams.Stream(images.name, read, images.count), captions
  )


def _entries(folder: str) -> tuple[image_set.Entry, ...] | None:
  """What the folder says itself, or None if it says nothing."""
  path = pathlib.Path(folder)
  if not (path / image_set.MANIFEST).exists():
    try:
      return image_set.read(path).entries
    except errors.BadInput:
      return None
  return image_set.read(path).entries


def _recorded(
  folder: pathlib.Path, entries: tuple[image_set.Entry, ...]
) -> Captioned:
  def read() -> Iterator[image_item.Item]:
    for entry in entries:
      data = (folder / entry.file).read_bytes()
      yield image_item.Item(entry.file, data, (entry.prompt,))

  name = folder.absolute().name
  return Captioned(
    image_streams.Stream(name, read, len(entries)),
    {entry.file: entry.prompt for entry in entries},
  )
