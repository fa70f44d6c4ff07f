"""All measures of one set of images against another, with 95 % intervals.

  fid               bootstrap of both sets
  kid               bootstrap; from 2000 images on, over 20 disjoint blocks
  precision, recall of the first 10,000 images; bootstrap of their flags, each
                    set's manifold as it is
  inception_score   bootstrap; only where the weights have a classifier

A reference is what FID needs of a real set, its moments, in a file of 33 MB
with what it was made of, so that the set is not needed again. Of a reference
only FID can be had, and its interval counts the other set's images alone.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.evals import (
  bootstrap,
  features,
  frechet,
  inception_score,
  kernel_distance,
  precision_recall,
)

_FORMAT = "reference, 1"
_BLOCKS_FROM = 2000  # images, for KID
_MOST_NEIGHBOURS = 10_000  # images, for precision and recall
_WIDTH_NOTE = (
  "A set has fewer images than the {width} numbers of a feature: its covariance"
  " has not full rank. The distance is exact all the same, but FID of few"
  " images is too large by about a constant over their number; read KID, or"
  " compare with as many images alone."
)
_COUNT_NOTE = (
  "The sets differ in size; FID depends on it, and the published numbers are of"
  " 30,000 or 50,000 images."
)


class Reference(NamedTuple):
  """The moments of a real set, and what they were made of."""

  moments: frechet.Moments
  images: str  # as in features.Features
  identity: Mapping[str, str]
  sizes: Mapping[str, int]

  @property
  def count(self) -> int:
    return self.moments.count


class Settings(NamedTuple):
  """Of the measures: draws of the bootstrap, neighbours, seed."""

  draws: int = 20
  neighbours: int = 3
  seed: int = 0


Scores: TypeAlias = dict[str, bootstrap.Interval]


def reference(found: features.Features) -> Reference:
  """What is kept of a real set."""
  pool = found.rows["pool"]
  return Reference(
    frechet.moments(pool), found.images, found.identity, found.sizes
  )


def measure(
  fake: features.Features,
  real: features.Features | Reference,
  settings: Settings,
  *,
  progress: Callable[[str], None] = lambda name: None,
) -> Scores:
  """Each measure that can be had; `progress` hears which one begins."""
  check_same(fake.identity, real.identity)
  scores = {}
  for name, compute in _measures(fake, real, settings):
    progress(name)
    scores[name] = compute()
  return scores


def check_same(fake: Mapping[str, str], real: Mapping[str, str]) -> None:
  """BadInput where two sets were not read by the same network."""
  for name in sorted(fake.keys() | real.keys()):
    ours, theirs = fake.get(name), real.get(name)
    if ours != theirs:
      raise errors.BadInput(
        f"the real set was read with {name} {str(theirs)[:16]!r}, the other"
        f" with {str(ours)[:16]!r}; numbers of the two cannot be compared."
      )


def notes(
  fake: features.Features, real: features.Features | Reference
) -> list[str]:
  """What a reader of the numbers should know, one sentence or two each."""
  counts = [len(fake.keys), _count(real)]
  width = fake.rows["pool"].shape[1]
  found = []
  if min(counts) < width:
    found.append(_WIDTH_NOTE.format(width=width))
  if counts[0] != counts[1]:
    found.append(_COUNT_NOTE)
  if fake.images == real.images:
    found.append("Both sets are the same images.")
  if "logits" not in fake.rows:
    found.append("These weights have no classes, so no Inception score.")
  left_out = len(fake.skipped) + len(getattr(real, "skipped", ()))
  if left_out:
    found.append(f"{left_out:,} images could not be read and were left out.")
  for name, sizes in (("generated", fake.sizes), ("real", real.sizes)):
    if len(sizes) > 1:
      listed = ", ".join(f"{size} ({n:,})" for size, n in sorted(sizes.items()))
      found.append(
        f"The {name} images have {len(sizes)} sizes: {listed[:200]}."
      )
  return found


def _count(real: features.Features | Reference) -> int:
  return real.count if isinstance(real, Reference) else len(real.keys)


def _measures(
  fake: features.Features,
  real: features.Features | Reference,
  settings: Settings,
) -> Iterator[tuple[str, Callable[[], bootstrap.Interval]]]:
  draw = {"draws": settings.draws, "seed": settings.seed}
  pool = fake.rows["pool"]
  if isinstance(real, Reference):

    def of_moments(some: frechet.Features) -> float:
      return frechet.distance(frechet.moments(some), real.moments)

    yield "fid", lambda: bootstrap.interval(of_moments, [pool], **draw)
  else:
    both = [pool, real.rows["pool"]]
    yield (
      "fid",
      lambda: bootstrap.interval(frechet.frechet_distance, both, **draw),
    )
    yield "kid", lambda: _kid(*both, settings)
    first = [rows[:_MOST_NEIGHBOURS] for rows in both]
    covered = precision_recall.covered(*first, neighbours=settings.neighbours)
    for name, flags in (
      ("precision", covered.generated),
      ("recall", covered.real),
    ):
      yield name, lambda flags=flags: _share(flags, settings)
  if "logits" in fake.rows:
    logits = [fake.rows["logits"]]
    yield (
      "inception_score",
      lambda: bootstrap.interval(
        inception_score.inception_score, logits, **draw
      ),
    )


def _kid(
  fake: frechet.Features, real: frechet.Features, settings: Settings
) -> bootstrap.Interval:
  if min(len(fake), len(real)) >= _BLOCKS_FROM:
    return kernel_distance.over_blocks(fake, real, seed=settings.seed)
  return bootstrap.interval(
    kernel_distance.kernel_distance,
    [fake, real],
    draws=settings.draws,
    seed=settings.seed,
  )


def _share(flags: np.ndarray, settings: Settings) -> bootstrap.Interval:
  return bootstrap.interval(
    lambda some: float(some.mean()),
    [flags.astype(np.float64)],
    draws=max(settings.draws, 100),
    seed=settings.seed,
  )


def write_reference(path: files.PathLike, kept: Reference) -> None:
  """One file, whole or not at all."""
  buffer = io.BytesIO()
  told = {
    "format": _FORMAT,
    "count": kept.moments.count,
    "images": kept.images,
    "identity": dict(kept.identity),
    "sizes": dict(kept.sizes),
  }
  np.savez(
    buffer,
    told=np.array(json.dumps(told)),
    mean=kept.moments.mean,
    scatter=kept.moments.scatter,
  )
  files.atomic_write(path, buffer.getvalue())


def read_reference(path: files.PathLike) -> Reference:
  """What `write_reference` wrote; BadInput for any other file."""
  try:
    with (
      epath.Path(path).open("rb") as file,
      np.load(file, allow_pickle=False) as stored,
    ):
      told = files.parse_json(str(stored["told"]))
      mean, scatter = stored["mean"], stored["scatter"]
    if told["format"] != _FORMAT or scatter.shape != (len(mean), len(mean)):
      raise ValueError(f"its format is {told['format']!r}")
    return Reference(
      frechet.Moments(told["count"], mean, scatter),
      told["images"],
      told["identity"],
      told["sizes"],
    )
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
  ) as error:
    raise errors.BadInput(
      f"{path} is no reference ({str(error)[:80]}); give a file that"
      " --save_reference wrote, or the real images."
    ) from error
