"""Batches of captioned photos, each a pure function of (sets, seed, step).

Row r of the batch of step n is position p = n * batch_size + r of one stream.
From (seed, p) alone follow

  the set and the place in its order   `mixture`
  the example                          `order`: each once an epoch of its set
  caption, square, flip, crop          `draws`; see `image_view`

so the stream does not depend on the number of hosts, of which each makes
consecutive rows, nor of threads, nor on where it is entered. An example that
cannot be used is replaced by one drawn from (seed, p, attempt) out of the same
set, and told in the order of the steps; see `rejects`.

  image [rows s s 3],  x_lr [rows s/f s/f 3],  f = resolution / low_resolution
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from imagen_jax.core import errors, images, shapes
from imagen_jax.data import (
  batch,
  decode,
  draws,
  examples,
  image_view,
  mixture,
  order,
  rejects,
)

# Bump when the meaning of (seed, position) changes.
_STREAM = "images-1"
# So many bad examples in a row are no accident: even if one in ten is bad, it
# happens once in 10^16 positions.
_ATTEMPTS = 16

Indices = Int[np.ndarray, "n"]


@runtime_checkable
class Source(Protocol):
  """A set of captioned images, as `examples.open_set` opens it."""

  @property
  def fingerprint(self) -> str:
    """Changes when any example changes."""
    ...

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> examples.Example: ...


class Made(NamedTuple):
  """A batch and the examples that could not be used for it."""

  batch: batch.HostBatch
  rejects: tuple[rejects.Reject, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePipeline:
  """Batches by step; see `make`."""

  sources: tuple[Source, ...]
  shares: tuple[int, ...]
  view: image_view.View
  batch_size: int  # of all hosts together
  seed: int
  host_index: int
  host_count: int
  threads: int
  budget: rejects.Budget
  report: rejects.Report | None
  transform: Callable[[batch.HostBatch], batch.HostBatch] | None

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hex hash of all that decides the stream, for a checkpoint to compare."""
    parts = (
      _STREAM,
      tuple(source.fingerprint for source in self.sources),
      *(self.shares, self.view, self.batch_size, self.seed),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()

  @functools.cached_property
  def _order_seeds(self) -> list[int]:
    """Sets of one size are to have different orders."""
    numbers = np.arange(len(self.sources))
    return draws.integers(self.seed, "set", numbers, 1 << 53).tolist()

  def locate(self, position: Indices) -> tuple[Indices, Indices]:
    """(set, index in the set) of positions of the stream."""
    number, place = mixture.locate(self.shares, position)
    index = np.zeros_like(position)
    for i in np.unique(number):
      here = number == i
      size = len(self.sources[i])
      index[here] = order.index_at(self._order_seeds[i], place[here], size)
    return number, index

  def batch_at(self, step: int) -> batch.HostBatch:
    """The rows of this host of the batch of a step >= 0."""
    return self.make_batch(step).batch

  def make_batch(self, step: int) -> Made:
    """The rows of this host, with what had to be replaced."""
    if step < 0:
      raise errors.BadInput(f"step {step} is negative; steps count from 0.")
    count = self.batch_size // self.host_count
    first = step * self.batch_size + self.host_index * count
    position = first + np.arange(count)
    number, index = self.locate(position)
    chances = np.stack(
      [draws.uniform(self.seed, name, position) for name in image_view.DRAWS],
      axis=1,
    ).tolist()
    rows, rejected = [], []
    for p, i, k, chance in zip(
      position.tolist(), number.tolist(), index.tolist(), chances, strict=True
    ):
      rows.append(self._row(p, i, k, chance, rejected))
    made = _stack(rows)
    if self.transform is not None:
      made = self.transform(made)
    return Made(made, tuple(rejected))

  def _row(
    self,
    position: int,
    number: int,
    index: int,
    chance: Sequence[float],
    rejected: list[rejects.Reject],
  ) -> image_view.Row:
    """The example, or the first that can be used in its place."""
    source = self.sources[number]
    for attempt in range(_ATTEMPTS):
      if attempt:
        name, at = f"instead {attempt}", np.array([position])
        index = int(draws.integers(self.seed, name, at, len(source))[0])
      key = f"record {index} of set {number}"
      try:
        example = source[index]
        key = example.key
        return image_view.show(example, self.view, chance)
      except (errors.DataError, decode.Skip) as error:
        rejected.append(rejects.Reject(key, str(error)))
    raise errors.DataError(
      f"{_ATTEMPTS} examples in a row could not be used, the last was {key!r}:"
      f" {rejected[-1].reason} Look at the set with: imagen data verify"
    )

  def batches(
    self, start: int = 0, stop: int | None = None
  ) -> Iterator[batch.HostBatch]:
    """The batches of steps start, start + 1, ..., read ahead in threads.

    DataError at the step at which the rejects exceed the budget.
    """
    ledger = rejects.Ledger(self.budget, self.report)
    steps = grain.MapDataset.range(start, sys.maxsize if stop is None else stop)
    options = grain.ReadOptions(
      num_threads=self.threads, prefetch_buffer_size=2 * self.threads
    )
    made = steps.map(self.make_batch).to_iter_dataset(options)
    for step, (found, rejected) in enumerate(made, start):
      ledger.add(step, self.batch_size // self.host_count, rejected)
      yield found


def _stack(rows: Sequence[image_view.Row]) -> batch.HostBatch:
  made: batch.HostBatch = {
    "key": [row.key for row in rows],
    "caption": [row.caption for row in rows],
  }
  pairs = [row.pixels for row in rows]
  made["image"] = images.from_uint8(np.stack([pair.image for pair in pairs]))
  if pairs[0].x_lr is not None:
    made["x_lr"] = images.from_uint8(np.stack([pair.x_lr for pair in pairs]))
  return made


def make(
  sources: Sequence[Source],
  view: image_view.View,
  *,
  batch_size: int,
  weights: Sequence[float | int] | None = None,
  seed: int = 0,
  host_index: int = 0,
  host_count: int = 1,
  threads: int = 2,
  budget: rejects.Budget = rejects.DEFAULT,
  report: rejects.Report | None = None,
  transform: Callable[[batch.HostBatch], batch.HostBatch] | None = None,
) -> ImagePipeline:
  """A pipeline over sets, by `weights` (by default their sizes).

  `batch_size` is that of all hosts together. `report` is told of each example
  that could not be used. `transform` runs on each batch in the reading threads:
  a place to tokenise. With 0 threads nothing is read ahead.
  """
  image_view.check(view)
  shapes.check_divisible(batch_size, host_count, "batch_size")
  if batch_size < 1 or not 0 <= host_index < host_count or threads < 0:
    raise errors.BadInput(
      f"batch_size {batch_size}, host {host_index} of {host_count} and threads"
      f" {threads}: a batch has at least one row, hosts count from 0, and"
      " threads are 0 or more."
    )
  sizes = [len(source) for source in sources]
  shares = mixture.units(sizes if weights is None else weights)
  if len(shares) != len(sizes):
    raise errors.BadInput(
      f"{len(shares)} weights for {len(sizes)} sets; give one for each."
    )
  for i, (size, share) in enumerate(zip(sizes, shares, strict=True)):
    if share and not size:
      raise errors.BadInput(f"set {i} is empty; leave it out, or weigh it 0.")
  return ImagePipeline(
    sources=tuple(sources),
    shares=shares,
    view=view,
    batch_size=batch_size,
    seed=seed,
    host_index=host_index,
    host_count=host_count,
    threads=threads,
    budget=budget,
    report=report,
    transform=transform,
  )


def showcase(pipeline: ImagePipeline, count: int = 8) -> batch.HostBatch:
  """Whole images and captions of the first positions; the same on all hosts."""
  view = dataclasses.replace(pipeline.view, crop=None, flip_probability=0.0)
  whole = dataclasses.replace(
    pipeline, view=view, batch_size=count, host_index=0, host_count=1
  )
  return whole.batch_at(0)
