"""Two small sets of plain images, by the same prompts, for tests of rating."""

import pathlib

import numpy as np

from imagen_jax.core import images
from imagen_jax.evals import image_set

SCRIPT = '<script>alert(1)</script> & a "crab"'


def texts(n: int) -> list[str]:
  return [SCRIPT, *(f"animal number {k}" for k in range(1, n))]


def write(
  folder: pathlib.Path, n: int = 4, samples: int = 2, shade: int = 0
) -> pathlib.Path:
  """`n` prompts in two categories, `samples` images each, 8 pixels a side."""
  entries = []
  for k, text in enumerate(texts(n)):
    for index in range(samples):
      name = f"{k:03d}-{index}.png"
      pixels = np.full((8, 8, 3), (shade, k * 5 % 256, index * 40), np.uint8)
      images.write_png(folder / name, pixels, {"prompt": "secret"})
      category = "Colors" if k % 2 else "Text"
      entries.append(image_set.Entry(name, text, category, index))
  image_set.write(folder, entries, {"seed": 0})
  return folder


def pair(
  folder: pathlib.Path, n: int = 4, samples: int = 2
) -> tuple[image_set.ImageSet, image_set.ImageSet]:
  """Sets a and b, which differ in shade."""
  return tuple(
    image_set.read(write(folder / name, n, samples, shade))
    for name, shade in (("a", 50), ("b", 200))
  )
