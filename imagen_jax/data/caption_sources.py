"""Where captions come from, by a short name.

  open_captions("captions/*.jsonl.gz")             files: see caption_files
  open_captions(["a.txt", "b.csv"])
  open_captions("tfds:coco_captions/2014:val")     tfds:NAME[/CONFIG][:SPLIT]
  open_captions("seqio:my_task:train", module="my_package.tasks")
  open_captions("set:sets/pictures")               of `imagen data build`
  open_captions("emoji")                           those of the demo's pictures

Captions are read as a stream, in an order that is always the same, and as often
as one likes. TensorFlow is imported for tfds: and seqio: alone.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from absl import logging

from imagen_jax.core import errors
from imagen_jax.data import (
  caption_files,
  colours,
  emoji,
  examples,
  seqio_captions,
  tfds_captions,
)


@dataclasses.dataclass(frozen=True)
class Captions:
  """A stream of captions that can be read again."""

  name: str
  read: Callable[[], Iterator[str | None]]  # None where there is no caption

  def __iter__(self) -> Iterator[str]:
    given = missing = 0
    for text in self.read():
      if text is None:
        missing += 1
      else:
        given += 1
        yield text
    if missing:
      logging.warning(
        "%s: %d examples have no caption and are passed over.",
        self.name,
        missing,
      )
    if not given:
      raise errors.DataError(f"{self.name} holds no captions.")


def open_captions(
  spec: str | Sequence[str],
  *,
  field: str | None = None,
  data_dir: str | None = None,
  module: str | None = None,
) -> Captions:
  """Captions by path, pattern, or name; see above.

  `field` names the text within an example, `data_dir` the folder of TFDS,
  `module` what to import first, so that it registers its seqio tasks.
  """
  specs = [spec] if isinstance(spec, str) else list(spec)
  name = specs[0] if len(specs) == 1 else f"{len(specs)} sources"
  kind, _, rest = name.partition(":")
  if name == "emoji":
    read = _emoji
  elif kind == "set":
    read = functools.partial(_set, rest)
  elif kind == "tfds":
    dataset, split = _split(rest)
    read = functools.partial(
      tfds_captions.read, dataset, split, field=field, data_dir=data_dir
    )
  elif kind == "seqio":
    read = functools.partial(
      seqio_captions.read, rest, field=field, module=module
    )
  else:
    found = caption_files.find(specs)
    read = functools.partial(_files, found, field)
  return Captions(name, read)


def _files(paths: Sequence[str], field: str | None) -> Iterator[str | None]:
  return itertools.chain.from_iterable(
    caption_files.read(path, field) for path in paths
  )


def _split(rest: str) -> tuple[str, str]:
  """NAME[/CONFIG][:1.0.0][:SPLIT] -> (all but the split, split or "train")."""
  match = re.fullmatch(r"([^:]+(?::\d[\d.*]*)?)(?::(.+))?", rest)
  if match is None:
    raise errors.BadInput(
      f"tfds:{rest} names no dataset; write tfds:NAME[/CONFIG][:SPLIT], as in"
      " tfds:coco_captions:val."
    )
  return match[1], match[2] or "train"


def _set(folder: str) -> Iterator[str | None]:
  """All captions of a set that `imagen data build` made."""
  source = examples.open_set(folder)
  for index in range(len(source)):
    yield from source[index].captions


def _emoji() -> Iterator[str | None]:
  """Of every object on every colour, the held-out pairs too."""
  pictures = emoji.open_emoji()
  for index in range(len(pictures)):
    for colour in range(len(colours.NAMES)):
      yield pictures.caption(index, colour)
