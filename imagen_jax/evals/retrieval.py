"""Do images show the prompted emoji? By the nearest picture of the set.

Where there is no CLIP, and captions name an object of the shipped set on one of
its colours. The gallery is each object (no people, no symbols) on each of the
12 colours, 16 pixels wide; nearest is by squared difference of pixels.

  object     the nearest picture shows the prompted object; of 1,000 or so
  colour     the nearest picture has the prompted colour; of 12
  both       it is the prompted picture
  object_10  of the pictures on the prompted colour, the prompted object is
             among the ten nearest

The set's own images score 1 in all. It asks for the set's drawing, not for the
thing: another picture of a crab is no hit.
"""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from imagen_jax.core import errors
from imagen_jax.data import colours, emoji
from imagen_jax.evals import emoji_measure, features

SIDE = 16  # pixels
NAMES = ("object", "colour", "both", "object_10")

Small: TypeAlias = Float[np.ndarray, "n p"]


def flags(
  objects: emoji.EmojiSet, small: Small, captions: Sequence[str]
) -> dict[str, Float[np.ndarray, "n"]]:
  """Of each image 1 or 0 by each measure; `small` as `network` makes it."""
  asked = pairs(objects, captions)
  shown = _shown(objects)
  count = len(colours.NAMES)
  gallery = _gallery(objects)
  # Less |image|^2, which is the same for all pictures.
  apart = np.square(gallery).sum(axis=1) - 2 * small @ gallery.T
  apart = apart.reshape(len(small), count, len(shown))
  nearest = apart.reshape(len(small), -1).argmin(axis=1)
  places = np.searchsorted(shown, [pair.index for pair in asked])
  wanted = np.array([pair.colour for pair in asked])
  own = apart[np.arange(len(small)), wanted]
  before = (own < own[np.arange(len(own)), places][:, None]).sum(axis=1)
  found_object = nearest % len(shown) == places
  found_colour = nearest // len(shown) == wanted
  found = (found_object, found_colour, found_object & found_colour, before < 10)
  return {name: np.float64(x) for name, x in zip(NAMES, found, strict=True)}


def pairs(
  objects: emoji.EmojiSet, captions: Sequence[str]
) -> list[emoji_measure.Pair]:
  """The object and colour of each caption; BadInput if one names none."""
  shown = set(_shown(objects).tolist())
  known = {
    objects.caption(i, c): emoji_measure.Pair(i, c, objects.caption(i, c))
    for i in range(len(objects))
    for c in range(len(colours.NAMES))
  }
  found = [known.get(caption) for caption in captions]
  bad = [
    caption
    for caption, pair in zip(captions, found, strict=True)
    if pair is None or pair.index not in shown
  ]
  if bad:
    raise errors.BadInput(
      f"{len(bad)} of {len(captions)} captions name no object of the emoji set"
      f" (people and symbols left out) on one of its colours, first"
      f" {bad[0][:80]!r}; judge these by CLIP."
    )
  return [pair for pair in found if pair is not None]


def network() -> features.Network:
  """Images made 16 pixels wide, as rows of levels 0..255."""
  import PIL.Image

  def prepare(pixels: np.ndarray) -> np.ndarray:
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    small = image.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)

  return features.Network(
    prepare,
    lambda params, x: {"small": x.reshape(len(x), -1)},
    {},
    {"network": f"pixels, {SIDE}", "resize": "bilinear, antialiased"},
  )


@functools.cache
def _gallery(objects: emoji.EmojiSet) -> Small:
  """All objects on the first colour, then on the next; levels 0..255."""
  everything = [
    emoji_measure.Pair(int(i), colour, "")
    for colour in range(len(colours.NAMES))
    for i in _shown(objects)
  ]
  x = emoji_measure.real_images(objects, everything, SIDE)
  return (x.reshape(len(x), -1) + 1) * np.float32(127.5)


def _shown(objects: emoji.EmojiSet) -> Int[np.ndarray, "k"]:
  return np.flatnonzero(np.isin(objects.groups, emoji.HELD_OUT_GROUPS))
