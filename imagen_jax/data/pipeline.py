"""Batches of captioned images, each a pure function of (set, seed, step).

Example i of the stream, i = step * batch_size + row, draws its object (by
weight), its background colour (evenly among those not held out), its crop and
its tags from numbers addressed by (seed, i). So the stream does not depend on
the batch size, on prefetch, on threads, or on where it is entered.

For super-resolution, `x_lr` is the antialiased downscale of the whole image,
and a crop of `image` is cut on the grid of `x_lr`:

  image [b crop crop 3],  x_lr [b crop/f crop/f 3],  f = resolution / low_res.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator

import grain
import numpy as np
from jaxtyping import Float, Int

from imagen_jax.core import errors, files, images, shapes
from imagen_jax.data import batch, colours, draws, emoji, pixels, transforms

# Bump when the meaning of (seed, index) changes.
_STREAM = "emoji-1"

Indices = Int[np.ndarray, "b"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """Batches by step; see `make`."""

  emoji: emoji.EmojiSet
  high: pixels.Pixels  # what `image` is cut from
  low: pixels.Pixels | None  # what `x_lr` is cut from; None for a base stage
  batch_size: int
  crop: int | None  # pixels of `image`; None for the whole
  seed: int
  tag_probability: float
  transform: Callable[[batch.HostBatch], batch.HostBatch] | None

  @property
  def grid(self) -> int:
    """Pixels of `image` to one of `x_lr`."""
    return self.high.size // self.low.size if self.low else 1

  @functools.cached_property
  def _edges(self) -> Float[np.ndarray, "n"]:
    return np.cumsum(self.emoji.weights)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hex hash of all that decides the stream, for a checkpoint to compare."""
    parts = (
      _STREAM,
      self.emoji.fingerprint,
      self.emoji.weights.tobytes().hex(),
      self.emoji.held_out_table.tobytes().hex(),
      *(self.high.size, self.low.size if self.low else None, self.crop),
      *(self.batch_size, self.seed, self.tag_probability),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()

  def draw(self, index: Indices) -> tuple[Indices, Indices]:
    """(objects, colours) of examples of the stream."""
    chance = draws.uniform(self.seed, "object", index)
    edges = self._edges
    objects = np.searchsorted(edges, chance * edges[-1], side="right")
    free = len(colours.NAMES) - self.emoji.held_out_table[objects].sum(axis=1)
    chosen = (draws.uniform(self.seed, "colour", index) * free).astype(np.int64)
    return objects, self.emoji.training_colours[objects, chosen]

  def batch_at(self, step: int) -> batch.HostBatch:
    """The batch of a step >= 0."""
    if step < 0:
      raise errors.BadInput(f"step {step} is negative; steps count from 0.")
    index = np.arange(self.batch_size) + step * self.batch_size
    objects, chosen = self.draw(index)
    made = self.render(objects, chosen, corners=self._corners(index))
    if self.tag_probability > 0:
      made["caption"] = self._with_tags(index, objects, made["caption"])
    return self.transform(made) if self.transform else made

  def render(
    self,
    objects: Indices,
    chosen: Indices,
    *,
    corners: tuple[Indices, Indices] | None = None,
  ) -> batch.HostBatch:
    """Images and captions of (object, colour) pairs, held out or not.

    `corners` are top and left of the crops, in pixels of `x_lr`.
    """
    rgb = colours.table()[chosen]
    made: batch.HostBatch = {
      "object": objects.astype(np.int32),
      "colour": chosen.astype(np.int32),
      "caption": [
        self.emoji.caption(int(i), int(c))
        for i, c in zip(objects, chosen, strict=True)
      ],
    }
    stores = {"image": (self.high, 1)}
    if self.low is not None:
      stores["x_lr"] = (self.low, self.grid)
    for name, (store, step) in stores.items():
      if corners is None:
        rgba = store.rows(objects)
      else:
        top, left = (corner * self.grid // step for corner in corners)
        rgba = store.windows(objects, top, left, self.crop // step)
      made[name] = images.from_uint8(transforms.paste(rgba, rgb))
    return made

  def batches(
    self, start: int = 0, stop: int | None = None, *, threads: int = 2
  ) -> Iterator[batch.HostBatch]:
    """The batches of steps start, start + 1, ..., read ahead in threads."""
    steps = grain.MapDataset.range(start, sys.maxsize if stop is None else stop)
    options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=2 * threads
    )
    return iter(steps.map(self.batch_at).to_iter_dataset(options))

  def _corners(self, index: Indices) -> tuple[Indices, Indices] | None:
    if self.crop is None:
      return None
    places = (self.high.size - self.crop) // self.grid + 1
    return (
      draws.integers(self.seed, "top", index, places),
      draws.integers(self.seed, "left", index, places),
    )

  def _with_tags(
    self, index: Indices, objects: Indices, plain: list[str]
  ) -> list[str]:
    """Some captions with two of the object's tags after them."""
    chance = draws.uniform(self.seed, "tags", index)
    place = draws.integers(self.seed, "which tags", index, 1 << 16)
    out = []
    for text, i, u, k in zip(plain, objects, chance, place, strict=True):
      tags = self.emoji.records[i].tags
      if u < self.tag_probability and tags:
        first, second = tags[k % len(tags)], tags[(k + 1) % len(tags)]
        text = ", ".join(dict.fromkeys((text, first, second)))
      out.append(text)
    return out


def _check_sizes(
  batch_size: int, resolution: int, low_resolution: int | None, crop: int | None
) -> None:
  if batch_size < 1 or resolution < 1:
    raise errors.BadInput(
      f"batch_size {batch_size} and resolution {resolution} must be at least 1."
    )
  if low_resolution is not None:
    shapes.check_divisible(resolution, low_resolution, "resolution")
  if crop is not None:
    grid = resolution // (low_resolution or resolution)
    shapes.check_divisible(crop, grid, "crop")
    if crop > resolution:
      raise errors.BadInput(
        f"crop {crop} is more than the resolution {resolution}."
      )


def make(
  *,
  batch_size: int,
  resolution: int,
  low_resolution: int | None = None,
  crop: int | None = None,
  seed: int = 0,
  tag_probability: float = 0.0,
  folder: files.PathLike | None = None,
  transform: Callable[[batch.HostBatch], batch.HostBatch] | None = None,
) -> Pipeline:
  """A pipeline over the emoji set in `folder` (by default the shipped one).

  `resolution` is that of the whole image; `low_resolution` that of `x_lr`, for
  super-resolution; `crop` the side of a random window of the image. A caption
  has two tags with `tag_probability`. `transform` runs on each batch in the
  reading threads: a place to tokenise.
  """
  _check_sizes(batch_size, resolution, low_resolution, crop)
  if not 0 <= tag_probability <= 1:
    raise errors.BadInput(
      f"tag_probability {tag_probability} is not in [0, 1]."
    )
  opened = emoji.open_emoji(folder)
  high = opened.at(resolution)
  low = None
  if low_resolution is not None:
    # A decoded image at hand is not decoded again.
    whole = high.row if resolution == opened.size else opened.rgba
    low = opened.at(low_resolution, whole)
  return Pipeline(
    opened, high, low, batch_size, crop, seed, tag_probability, transform
  )


def showcase(pipeline: Pipeline) -> batch.HostBatch:
  """Whole images and captions of the held-out pairs in `emoji.SHOWCASE`."""
  pairs = [
    (pipeline.emoji.index(name), colours.index(colour))
    for name, colour in emoji.SHOWCASE
  ]
  objects, chosen = np.array(pairs).T
  return pipeline.render(objects, chosen)
