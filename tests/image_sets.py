"""Small sets of JPEGs that look a little like photos, with captions.

Smooth colours with some grain, landscape and portrait. Every third caption says
left or right, every fifth example has two captions.
"""

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Sequence

import numpy as np
import PIL.Image

from imagen_jax.core import errors
from imagen_jax.data import array_record_source, examples

_SIDES = (64, 96, 128, 192, 256)


def photo(width: int, height: int, *, seed: int = 0) -> np.ndarray:
  """uint8 [height width 3]: blurred blocks of colour, and grain."""
  generator = np.random.default_rng(seed)
  blocks = generator.integers(0, 256, (5, 5, 3), np.uint8)
  smooth = PIL.Image.fromarray(blocks).resize(
    (width, height), PIL.Image.Resampling.BICUBIC
  )
  grain = generator.normal(0, 6, (height, width, 3))
  return np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "jpeg") -> bytes:
  """Pixels in any mode that Pillow takes from an array -> an image file."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()


def make(
  count: int, *, seed: int = 0, sides: Sequence[int] = _SIDES
) -> list[examples.Example]:
  """Examples of different sizes; the same ones each time."""
  made = []
  for i in range(count):
    generator = np.random.default_rng((seed, i))
    width, height = generator.choice(sides, 2).tolist()
    side = "on the left" if i % 2 else "on the right"
    caption = f"photo {i} of set {seed}" + (f", {side}" if i % 3 == 0 else "")
    extra = {"width": width, "height": height}
    if i % 5 == 0:
      extra["captions"] = [caption, f"{caption}, again"]
    pixels = photo(width, height, seed=1000 * seed + i)
    made.append(
      examples.Example(f"{seed}/{i:04d}", caption, encode(pixels), extra)
    )
  return made


@dataclasses.dataclass
class ListSource:
  """A set in memory; `damaged` records cannot be read."""

  rows: list[examples.Example]
  damaged: tuple[int, ...] = ()

  @property
  def fingerprint(self) -> str:
    digest = hashlib.sha256()
    for row in self.rows:
      digest.update(examples.encode(row))
    return digest.hexdigest()

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> examples.Example:
    if index in self.damaged:
      raise errors.DataError(f"record {index} is damaged.")
    return self.rows[index]


def source(count: int, *, seed: int = 0, **changes) -> ListSource:
  """A set in memory; `changes` as of `make`."""
  return ListSource(make(count, seed=seed, **changes))


def write(
  folder: pathlib.Path, rows: Sequence[examples.Example], *, shards: int = 2
) -> pathlib.Path:
  """The set as `examples.open_set` opens it."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for i in range(shards):
    part = rows[len(rows) * i // shards : len(rows) * (i + 1) // shards]
    path = folder / f"shard-{i:05d}.array_record"
    lines.append(
      array_record_source.write_shard(path, part, encode=examples.encode)
    )
  array_record_source.write_manifest(
    folder, lines, name=folder.name, notes={"format": examples.FORMAT}
  )
  return folder
