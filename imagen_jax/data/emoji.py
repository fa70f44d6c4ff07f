"""The emoji set: Microsoft's Fluent 3D emoji on coloured backgrounds.

3,121 objects times 12 colours; a caption names both, so that a model has to
read both: "a 3D render of a crab on a navy blue background".

Held-out pairs. Of the objects other than people and symbols, a fixed tenth of
the (object, colour) pairs is never drawn in training; the object is seen on
other colours and the colour under other objects. A pair is held out if the hash
of its two names says so, so the choice does not depend on seeds or on order.

Weights. An object's weight is that of its group, shared among the skin tones of
the same emoji: 1,881 of the images are people, and drawn evenly they would take
six examples of ten.
"""

import dataclasses
import difflib
import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from imagen_jax.core import errors, files
from imagen_jax.data import (
  array_record_source,
  captions,
  colours,
  pixels,
  records,
  transforms,
)

FOLDER = pathlib.Path(__file__).parent.parent / "assets" / "emoji"
GROUPS: dict[int, str] = {
  0: "smileys",
  1: "people",
  3: "animals",
  4: "food",
  5: "travel",
  6: "activities",
  7: "objects",
  8: "symbols",
}
# Weight of one emoji, all its skin tones together.
GROUP_WEIGHTS: dict[str, float] = {
  "smileys": 0.8,
  "people": 0.3,
  "animals": 1.2,
  "food": 1.2,
  "travel": 1.0,
  "activities": 1.0,
  "objects": 1.0,
  "symbols": 0.3,
}
HELD_OUT_GROUPS = (
  "smileys",
  "animals",
  "food",
  "travel",
  "activities",
  "objects",
)
HELD_OUT_FRACTION = 0.1
# Held-out pairs to look at: the prompts of README and quickstart.
SHOWCASE: tuple[tuple[str, str], ...] = (
  ("lion", "navy blue"),
  ("penguin", "red"),
  ("cat", "pink"),
  ("watermelon", "black"),
  ("doughnut", "sky blue"),
  ("red apple", "green"),
  ("soccer ball", "yellow"),
  ("balloon", "purple"),
)

COLOURS = colours.COLOURS
border_colour = colours.border_colour
caption = captions.caption


def showcase_prompts() -> list[str]:
  """The captions of the pairs in `SHOWCASE`."""
  return [captions.caption(name, colour) for name, colour in SHOWCASE]


def held_out_names(label: str, colour: str) -> bool:
  """Whether the hash of the two names falls in the lowest tenth."""
  digest = hashlib.sha256(f"{label}/{colour}".encode()).digest()
  return int.from_bytes(digest[:8], "big") < HELD_OUT_FRACTION * 2.0**64


@dataclasses.dataclass(frozen=True, eq=False)
class EmojiSet:
  """The records of the set, in order; an index is a place in `records`."""

  records: tuple[records.Record, ...]
  size: int  # pixels a side
  fingerprint: str  # SHA-256 of the manifest

  def __len__(self) -> int:
    return len(self.records)

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """A noun for each object: "crab", "woman golfing with dark skin tone"."""
    return tuple(captions.name(record.label) for record in self.records)

  @functools.cached_property
  def groups(self) -> tuple[str, ...]:
    """The group's name of each object."""
    return tuple(GROUPS[record.group] for record in self.records)

  def index(self, name: str) -> int:
    """The object of that name; BadInput lists near misses otherwise."""
    if name in self.names:
      return self.names.index(name)
    near = difflib.get_close_matches(name, self.names, n=3)
    raise errors.BadInput(
      f"the set has no object {name!r}; "
      + (f"near: {', '.join(near)}." if near else "see EmojiSet.names.")
    )

  def rgba(self, index: int) -> UInt8[np.ndarray, "s s 4"]:
    """Premultiplied RGBA of one object, decoded anew."""
    record = self.records[index]
    rgba = transforms.decode(record.image, f"{record.label!r} ({record.codes})")
    if rgba.shape[:2] != (self.size, self.size):
      raise errors.DataError(
        f"the image of {record.label!r} is {rgba.shape[0]}x{rgba.shape[1]}, its"
        f" manifest says {self.size}x{self.size}; build the set again."
      )
    return rgba

  def at(
    self,
    resolution: int,
    whole: Callable[[int], UInt8[np.ndarray, "s s 4"]] | None = None,
  ) -> pixels.Pixels:
    """All objects at a resolution, each made when it is first asked for.

    `whole` gives an object at full size, if not by decoding it (`rgba`).
    """
    if not 1 <= resolution <= self.size:
      raise errors.BadInput(
        f"resolution {resolution} is not in 1 to {self.size}, the size of the"
        " stored images."
      )
    source = self.rgba if whole is None else whole
    return pixels.Pixels(
      len(self),
      resolution,
      lambda i: transforms.downscale(source(i), resolution),
    )

  def caption(self, index: int, colour: int) -> str:
    """The caption of a pair."""
    return captions.caption(self.records[index].label, colours.NAMES[colour])

  @functools.cached_property
  def held_out_table(self) -> Bool[np.ndarray, "n colours"]:
    """True where a pair is held out."""
    table = np.zeros((len(self), len(colours.NAMES)), bool)
    for i, record in enumerate(self.records):
      if self.groups[i] in HELD_OUT_GROUPS:
        table[i] = [held_out_names(record.label, c) for c in colours.NAMES]
    return table

  def held_out(self, index: int, colour: int) -> bool:
    """Whether the pair is never drawn in training."""
    return bool(self.held_out_table[index, colour])

  def held_out_pairs(self) -> list[tuple[int, int]]:
    """All held-out (object, colour) pairs, in order."""
    return [(int(i), int(c)) for i, c in np.argwhere(self.held_out_table)]

  @functools.cached_property
  def weights(self) -> Float[np.ndarray, "n"]:
    """The probability of drawing each object in training; sums to 1."""
    bases = [record.base for record in self.records]
    _, place, variants = np.unique(
      bases, return_inverse=True, return_counts=True
    )
    group = np.array([GROUP_WEIGHTS[name] for name in self.groups])
    weights = group / variants[place]
    return weights / weights.sum()

  @functools.cached_property
  def training_colours(self) -> Int[np.ndarray, "n colours"]:
    """For each object the colours to draw from first, the held out last."""
    return np.argsort(self.held_out_table, axis=1, kind="stable")


def open_emoji(folder: files.PathLike | None = None) -> EmojiSet:
  """The set that the package ships, or one in `folder`; images stay encoded.

  Every shard is compared with its SHA-256, which takes a tenth of a second.
  """
  source = array_record_source.ArrayRecordSource(folder or FOLDER)
  rows = tuple(source.read_all())
  if not rows:
    raise errors.DataError(
      f"the set {source.manifest.name!r} has no records; build it again."
    )
  for record in rows:
    if record.group not in GROUPS:
      raise errors.DataError(
        f"{record.label!r} is of group {record.group}, which the set has not;"
        " build the set again."
      )
  return EmojiSet(rows, source.manifest.image_size, source.fingerprint)
