"""What the verbs of `imagen data` share: numbers, a bar, kinds of arguments."""

import argparse
from collections.abc import Mapping

import tqdm

from imagen_jax.core import files
from imagen_jax.data import build_images, statistics


def positive(text: str) -> int:
  """An argument of at least 1."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"{value} is given; it is at least 1")
  return value


def share(text: str) -> float:
  """An argument in 0..1."""
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f"{text} is given; it is in 0..1")
  return value


class Bar:
  """A progress bar of images; it is drawn when the first one is done."""

  def __init__(self, total: int | None = None):
    self._total = total
    self._bar: tqdm.tqdm | None = None

  def __enter__(self) -> "Bar":
    return self

  def at(self, done: int) -> None:
    """So many are done."""
    if self._bar is None:
      self._bar = tqdm.tqdm(
        total=self._total, unit=" images", mininterval=0.5, smoothing=0.05
      )
    self._bar.update(done - self._bar.n)

  def build(self, progress: build_images.Progress) -> None:
    """So far is a build."""
    self._total = progress.total
    self.at(progress.seen)

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.close()


def print_tally(tally: statistics.Tally) -> None:
  """Sizes and captions, as a manifest has them."""
  told = tally.as_json()
  captions = told["captions"]
  print(
    f"images      {tally.images:,}, {files.size_text(tally.bytes)}\n"
    f"sizes       {_line(told['shorter_side'])} (shorter side)\n"
    f"aspect      {_line(told['aspect'])} (width to height)\n"
    f"captions    {captions['count']:,}; words: mean"
    f" {captions['mean_words']:g}, 5 % {captions['words_5%']}, 50 %"
    f" {captions['words_50%']}, 95 % {captions['words_95%']}, longest"
    f" {captions['longest_words']}"
  )


def _line(counts: Mapping[str, int]) -> str:
  return (
    ", ".join(f"{name}: {n:,}" for name, n in counts.items() if n) or "none"
  )
