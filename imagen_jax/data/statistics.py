"""What is in a set of captioned images: sizes, captions, duplicates, colours.

`Tally` counts what the record itself says and goes into the manifest; `survey`
also reads every image for duplicates, and decodes some of them.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from imagen_jax.core import contact_sheet, errors, files
from imagen_jax.data import decode, examples

# Width by height: the upper bounds of classes.
_ASPECTS = {
  "up to 1:2": 0.5,
  "1:2 to 3:4": 0.75,
  "3:4 to 4:3": 4 / 3,
  "4:3 to 2:1": 2.0,
  "above 2:1": float("inf"),
}
_QUANTILES = (0.05, 0.5, 0.95)
_THUMBNAIL = 192  # pixels a side on a contact sheet


@dataclasses.dataclass
class Tally:
  """Counts over examples, in any order."""

  images: int = 0
  bytes: int = 0  # of image files
  captions: int = 0
  sizes: Counter[int] = dataclasses.field(default_factory=Counter)
  aspects: Counter[str] = dataclasses.field(default_factory=Counter)
  words: Counter[int] = dataclasses.field(default_factory=Counter)

  def add(self, example: examples.Example) -> None:
    """Counts one example, by what its header says."""
    width, height = example.extra["width"], example.extra["height"]
    self.images += 1
    self.bytes += len(example.image)
    self.captions += len(example.captions)
    self.sizes[1 << (min(width, height).bit_length() - 1)] += 1
    self.aspects[
      next(name for name, top in _ASPECTS.items() if width / height <= top)
    ] += 1
    self.words.update(len(text.split()) for text in example.captions)

  def as_json(self) -> dict[str, files.Json]:
    """As it stands in a manifest."""
    low, middle, high = quantiles(self.words)
    return {
      "images": self.images,
      "image_bytes": self.bytes,
      "shorter_side": {
        f"{size}..{2 * size - 1}": self.sizes[size]
        for size in sorted(self.sizes)
      },
      "aspect": {name: self.aspects[name] for name in _ASPECTS},
      "captions": {
        "count": self.captions,
        "mean_words": round(_mean(self.words), 2),
        "words_5%": low,
        "words_50%": middle,
        "words_95%": high,
        "longest_words": max(self.words, default=0),
      },
    }


def quantiles(counts: Mapping[int, int]) -> tuple[int, ...]:
  """The smallest values below which lie 5, 50 and 95 % of all."""
  values = sorted(counts)
  below = np.cumsum([counts[value] for value in values])
  if not values:
    return (0,) * len(_QUANTILES)
  places = np.searchsorted(below, np.array(_QUANTILES) * below[-1])
  return tuple(values[place] for place in places)


def _mean(counts: Mapping[int, int]) -> float:
  total = sum(counts.values())
  return sum(value * n for value, n in counts.items()) / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Survey:
  """A whole set at one look."""

  tally: Tally
  same_images: list[tuple[str, str]]  # (key, key of the first with the bytes)
  same_captions: int  # captions that stood before, to the letter
  sampled: int  # images that were decoded for the rest
  colour_mean: tuple[float, ...]  # of red, green, blue; 0..255
  colour_deviation: tuple[float, ...]  # of all pixels
  sheet: UInt8[np.ndarray, "H W 3"] | None


def survey(
  source: examples.ExampleSource,
  *,
  sample: int = 1000,
  shown: int = 24,
  seed: int = 0,
  progress: Callable[[int], None] = lambda done: None,
) -> Survey:
  """Reads a set once; colours and sheet are of a random sample of it."""
  count = min(len(source), max(sample, shown))
  chosen = np.random.default_rng(seed).choice(len(source), count, replace=False)
  sampled, on_sheet = set(chosen.tolist()), set(chosen[:shown].tolist())
  tally, first, same_images = Tally(), {}, []
  captions, same_captions = set(), 0
  moments, thumbnails = np.zeros((2, 3)), []
  for index in range(len(source)):
    example = source[index]
    tally.add(example)
    identity = examples.digest(example.image)
    if first.setdefault(identity, index) != index:
      same_images.append((example.key, source[first[identity]].key))
    for caption in map(str.encode, example.captions):
      same_captions += examples.digest(caption) in captions
      captions.add(examples.digest(caption))
    if index in sampled:
      pixels = _decoded(example, index)
      moments += _moments(pixels)
      if index in on_sheet:
        thumbnails.append((example.caption, _thumbnail(pixels)))
    progress(index + 1)
  mean, square = moments / max(1, count)
  return Survey(
    tally=tally,
    same_images=same_images,
    same_captions=same_captions,
    sampled=count,
    colour_mean=tuple(mean.round(2).tolist()),
    colour_deviation=tuple(np.sqrt(square - mean**2).round(2).tolist()),
    sheet=_sheet(thumbnails),
  )


def _decoded(
  example: examples.Example, index: int
) -> UInt8[np.ndarray, "h w 3"]:
  try:
    return decode.decode(example.image)
  except decode.Skip as skip:
    raise errors.DataError(
      f"record {index} ({example.key}): {skip}; for all that is wrong, run"
      " `imagen data verify --decode`."
    ) from skip


def _moments(pixels: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
  """Mean and mean square of each colour; every image weighs the same."""
  x = pixels.reshape(-1, 3)
  return np.stack([
    x.mean(axis=0), np.square(x, dtype=np.float32).mean(axis=0, dtype=float)
  ])  # fmt: skip


def _thumbnail(
  pixels: UInt8[np.ndarray, "h w 3"],
) -> UInt8[np.ndarray, "1 h2 w2 3"]:
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
  image.thumbnail((_THUMBNAIL, _THUMBNAIL), PIL.Image.Resampling.BICUBIC)
  return np.asarray(image)[None]


def _sheet(
  thumbnails: Sequence[tuple[str, UInt8[np.ndarray, "1 _ _ 3"]]],
) -> UInt8[np.ndarray, "H W 3"] | None:
  if not thumbnails:
    return None
  captions, rows = zip(*thumbnails, strict=True)
  return contact_sheet.labelled(rows, captions)
