"""COCO's captions of 2014, the list of them that is drawn, the real images.

The zero-shot protocol of the paper's Section 4.2: 30,000 captions drawn at
random from the validation set, one image of each, against all real images of
that set. `captions_val2014.json` holds

  {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}],
   "annotations": [{"id": 771337, "image_id": 391895, "caption": "A man ..."}]}

Captions are ordered by SHA-256 of "SEED ID", with the id of the annotation, and
the first N are the list: the same on every machine, and the first 10,000 of the
list of 30,000 are the list of 10,000. A text that is drawn a second time gets
its own image, by its number.
"""

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from imagen_jax.core import errors, files
from imagen_jax.data import image_item
from imagen_jax.evals import image_streams, prompts

_KIND = "give COCO's captions_val2014.json"


class Caption(NamedTuple):
  """One annotation."""

  id: int
  image: int
  text: str


class Captions(NamedTuple):
  """A file of captions."""

  names: Mapping[int, str]  # of the image files, by id
  captions: tuple[Caption, ...]
  digest: str  # SHA-256 of the file


class Sample(NamedTuple):
  """One caption that is drawn, and which image of its text it is."""

  caption: Caption
  index: int


def read(path: files.PathLike) -> Captions:
  """The captions of a file; BadInput for one that holds none."""
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise errors.BadInput(
      f"cannot read captions from {str(path)!r} ({error.strerror}); {_KIND}."
    ) from error
  try:
    value = files.parse_json(data)
    names = {
      _number(row["id"]): _name(row["file_name"]) for row in value["images"]
    }
    found = [_caption(row, names) for row in value["annotations"]]
  except (KeyError, TypeError, ValueError) as error:
    raise errors.BadInput(
      f"{str(path)!r} holds no captions ({_told(error)}); {_KIND}."
    ) from error
  kept = tuple(caption for caption in found if caption.text)
  if not kept:
    raise errors.BadInput(f"{str(path)!r} holds no caption; {_KIND}.")
  if len({caption.id for caption in kept}) < len(kept):
    raise errors.BadInput(
      f"{str(path)!r} has two captions of one id, so that a list of them would"
      f" not be the same each time; {_KIND}."
    )
  return Captions(names, kept, hashlib.sha256(data).hexdigest())


def choose(found: Captions, count: int, seed: int) -> list[Sample]:
  """The list of `count` captions that `seed` names."""
  if not 1 <= count <= len(found.captions):
    raise errors.BadInput(
      f"{count:,} captions are asked for; take 1 to the"
      f" {len(found.captions):,} that the file holds."
    )

  def place(caption: Caption) -> bytes:
    return hashlib.sha256(f"{seed} {caption.id}".encode()).digest()

  seen: collections.Counter[str] = collections.Counter()
  samples = []
  for caption in sorted(found.captions, key=place)[:count]:
    samples.append(Sample(caption, seen[caption.text]))
    seen[caption.text] += 1
  return samples


def real_images(
  found: Captions,
  folder: files.PathLike,
  ids: Sequence[int] | None = None,
) -> image_streams.Stream:
  """All images of the file, or those of some ids; all must be there."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise errors.BadInput(
      f"{str(folder)!r} is no folder; give the one of COCO's val2014 images."
    )
  chosen = found.names if ids is None else dict.fromkeys(ids)
  names = [found.names[number] for number in sorted(chosen)]
  there = set(os.listdir(folder))
  if missing := [name for name in names if name not in there]:
    raise errors.BadInput(
      f"{len(missing):,} of {len(names):,} images are not in {str(folder)!r},"
      f" as {missing[0]}; unpack all of COCO's val2014.zip there."
    )

  def read_all() -> Iterator[image_item.Item]:
    for name in names:
      yield image_item.Item(name, (folder / name).read_bytes())

  return image_streams.Stream(folder.absolute().name, read_all, len(names))


def _caption(row: Mapping, names: Mapping[int, str]) -> Caption:
  if not isinstance(row["caption"], str):
    raise ValueError(f"the caption of annotation {row['id']} is no text")
  if row["image_id"] not in names:
    raise ValueError(
      f"annotation {row['id']} is of image {row['image_id']}, which is not"
      " among the images"
    )
  text = prompts.clean(row["caption"])
  return Caption(_number(row["id"]), row["image_id"], text)


def _number(value: files.Json) -> int:
  if not isinstance(value, int):
    raise ValueError(f"the id {str(value)[:40]!r} is no whole number")
  return value


def _name(value: files.Json) -> str:
  if not files.is_plain_name(value):
    raise ValueError(f"{str(value)[:80]!r} is no name of an image file")
  return value


def _told(error: Exception) -> str:
  if isinstance(error, KeyError):
    return f"{error} is missing"
  return str(error)[:200]
