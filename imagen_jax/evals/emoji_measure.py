"""How well images paint what was asked, on held-out pairs of the emoji set.

  colour    the share whose border has the prompt's colour, of 12; a guess has
            1/12
  object    where the prompted object stands among all objects of its kind (no
            people, no symbols), pasted on the prompt's colour and ordered by
            likeness to the image: 1 the most alike, 0.5 a guess, 0 the least
  distance  of features of the images to those of real images of other held-out
            pairs (`gaussian_distance`): 0 is a sample of the same

Likeness is the cosine of two images 16 pixels wide, less the mean object on
that colour: it asks for shape and inner colours in place, as the set's objects
are all centred. Real images score 1; a picture may look like its object to a
person and not to this.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from imagen_jax.core import errors, images
from imagen_jax.data import colours, emoji, pixels, transforms
from imagen_jax.evals import (
  bootstrap,
  gaussian_distance,
  pixel_features,
  sweeps,
)

NAME = "emoji-1"  # bump when a number's meaning changes
_SIDE = 16  # of the pictures that objects are told by
_MOST_REAL = 512  # images of the other set


@runtime_checkable
class Features(Protocol):
  """Images in [-1, 1] -> one row of features each."""

  def __call__(
    self, x: Float[np.ndarray, "n h w 3"]
  ) -> Float[np.ndarray, "n d"]: ...


class Pair(NamedTuple):
  """An object of the set, on a colour."""

  index: int
  colour: int
  caption: str


@dataclasses.dataclass(frozen=True, eq=False)
class EmojiMeasure:
  """(images, prompts) -> scores; see `make`."""

  pairs: Mapping[str, Pair]
  features: Features
  real: Float[np.ndarray, "m d"]  # features of the other pairs' images
  gallery: Mapping[int, Float[np.ndarray, "k p"]]  # by colour, by object
  places: Int[np.ndarray, "n"]  # of an object in the gallery; -1 is not there

  def __call__(
    self, x: Float[np.ndarray, "n h w 3"], prompts: Sequence[str]
  ) -> sweeps.Scores:
    pairs = [self.pairs[prompt] for prompt in prompts]
    painted = [
      colours.border_colour(image) == colours.NAMES[pair.colour]
      for image, pair in zip(images.to_uint8(x), pairs, strict=True)
    ]
    return {
      "colour": _mean(np.array(painted, np.float64)),
      "object": _mean(self._standing(x, pairs)),
      "distance": gaussian_distance.interval(self.features(x), self.real),
    }

  def _standing(
    self, x: Float[np.ndarray, "n h w 3"], pairs: Sequence[Pair]
  ) -> Float[np.ndarray, "n"]:
    standing = []
    flat = pixel_features.flatten(x, _SIDE)
    for row, pair in zip(flat, pairs, strict=True):
      shown = self.gallery[pair.colour]
      mean = shown.mean(axis=0)
      parts = shown - mean
      alike = parts @ (row - mean) / np.linalg.norm(parts, axis=1)
      before = (alike > alike[self.places[pair.index]]).sum()
      standing.append(1 - before / (len(shown) - 1))
    return np.array(standing)


def choose_pairs(
  objects: emoji.EmojiSet, count: int, seed: int = 0
) -> list[Pair]:
  """`count` held-out pairs, in a random order that `seed` fixes."""
  held_out = objects.held_out_pairs()
  if not 2 <= count < len(held_out) - 128:
    raise errors.BadInput(
      f"{count} prompts; choose 2 to {len(held_out) - 129}, as other held-out"
      " pairs are what the images are compared with."
    )
  return _shuffled(objects, seed)[:count]


def make(
  objects: emoji.EmojiSet,
  pairs: Sequence[Pair],
  *,
  resolution: int,
  seed: int = 0,
  features: Features | None = None,
) -> EmojiMeasure:
  """The measure of images of `pairs` = `choose_pairs(..., seed)`.

  `features` are of the distance; without, they are pixel features of training
  pairs, at most 32 pixels wide. Real images are made at `resolution`.
  """
  others = _shuffled(objects, seed)[len(pairs) :][:_MOST_REAL]
  real = real_images(objects, others, resolution)
  kept = features or _features(objects, min(resolution, 32))
  shown, store = _shown(objects), objects.at(_SIDE)
  places = np.full(len(objects), -1)
  places[shown] = np.arange(len(shown))
  gallery = {
    colour: pixel_features.flatten(
      _pasted(store, shown, [colour] * len(shown)), _SIDE
    )
    for colour in sorted({pair.colour for pair in pairs})
  }
  return EmojiMeasure(
    {pair.caption: pair for pair in pairs},
    kept,
    kept(real),
    gallery,
    places,
  )


def _features(objects: emoji.EmojiSet, side: int) -> Features:
  """Pixel features of every object on two colours of training."""
  pairs = []
  for i in _shown(objects):
    seen = np.flatnonzero(~objects.held_out_table[i])
    chosen = (int(seen[(i + shift) % len(seen)]) for shift in (0, 5))
    pairs += [Pair(int(i), colour, "") for colour in chosen]
  return pixel_features.fit(
    real_images(objects, pairs, side), side=side, count=16 * side
  )


def real_images(
  objects: emoji.EmojiSet, pairs: Sequence[Pair], resolution: int
) -> Float[np.ndarray, "n s s 3"]:
  """Objects on colours in [-1, 1], as training sees them."""
  return _pasted(
    objects.at(resolution),
    [pair.index for pair in pairs],
    [pair.colour for pair in pairs],
  )


def _mean(values: Float[np.ndarray, "n"]) -> bootstrap.Interval:
  """Of one number an image."""
  return bootstrap.interval(lambda some: float(some.mean()), [values])


def _shuffled(objects: emoji.EmojiSet, seed: int) -> list[Pair]:
  held_out = objects.held_out_pairs()
  order = np.random.default_rng(seed).permutation(len(held_out))
  chosen = [held_out[i] for i in order]
  return [Pair(i, c, objects.caption(i, c)) for i, c in chosen]


def _shown(objects: emoji.EmojiSet) -> Int[np.ndarray, "k"]:
  """The objects of the groups that have held-out pairs."""
  kept: Bool[np.ndarray, "n"] = np.isin(objects.groups, emoji.HELD_OUT_GROUPS)
  return np.flatnonzero(kept)


def _pasted(
  store: pixels.Pixels,
  indices: Sequence[int] | Int[np.ndarray, "n"],
  chosen: Sequence[int],
) -> Float[np.ndarray, "n s s 3"]:
  rgba = store.rows(np.asarray(indices, np.int64))
  rgb = colours.table()[list(chosen)]
  return np.asarray(images.from_uint8(transforms.paste(rgba, rgb)))
