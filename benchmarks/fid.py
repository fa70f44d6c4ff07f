"""Time and memory of FID of many features.

  python benchmarks/fid.py                         # 30,000 x 2048, twice
  python benchmarks/fid.py --images=10000

The features are random, of a covariance as steep as Inception's. Prints seconds
of the moments and of the distance, and the most memory that was resident, with
one set of features in it at a time.
"""

import json
import resource
import time

import numpy as np
from absl import app, flags

from imagen_jax.evals import frechet

_IMAGES = flags.DEFINE_integer("images", 30_000, "of each set")
_WIDTH = flags.DEFINE_integer("width", 2048, "numbers of a feature")


def _features(seed: int) -> np.ndarray:
  draw = np.random.default_rng(seed)
  shape = (_IMAGES.value, _WIDTH.value)
  x = draw.standard_normal(shape, dtype=np.float32)
  x *= np.arange(1, _WIDTH.value + 1, dtype=np.float32) ** -0.5
  return x + np.float32(0.01 * seed)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {argv[1:]}")
  made, seconds = [], []
  for seed in (0, 1):
    features = _features(seed)
    start = time.perf_counter()
    made.append(frechet.moments(features))
    seconds.append(time.perf_counter() - start)
    del features
  start = time.perf_counter()
  distance = frechet.distance(*made)
  last = time.perf_counter() - start
  row = {
    "images": _IMAGES.value,
    "width": _WIDTH.value,
    "moments_seconds": [round(s, 1) for s in seconds],
    "distance_seconds": round(last, 1),
    "total_seconds": round(sum(seconds) + last, 1),
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    "fid": distance,
  }
  print(json.dumps(row))


if __name__ == "__main__":
  app.run(main)
