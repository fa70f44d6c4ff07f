"""The random Inception that the golden outputs were made with.

94 MB, so it is drawn anew: the streams of numpy's RandomState are frozen, and
the digest of the result is compared.
"""

import functools
import hashlib
import json
import math
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden" / "inception"


@functools.cache
def draw() -> dict[str, np.ndarray]:
  """Every tensor of a public file, by its name there."""
  manifest = json.loads((GOLDEN / "shapes.json").read_text())
  made = {
    name: _one(name, manifest["shapes"][name])
    for name in sorted(manifest["shapes"])
  }
  digest = hashlib.sha256()
  for name, values in made.items():
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(values).tobytes())
  assert digest.hexdigest() == manifest["sha256"]
  return made


def _one(name, shape):
  draw = np.random.RandomState((zlib.crc32(name.encode()) ^ 707) & 0x7FFFFFFF)
  if name.endswith("num_batches_tracked"):
    return np.zeros(shape, np.int64)
  if name.endswith("running_var"):
    return draw.uniform(0.5, 1.5, shape).astype(np.float32)
  if name.endswith("bn.weight"):
    return draw.uniform(0.8, 1.4, shape).astype(np.float32)
  if name.endswith(("running_mean", "bias")):
    return (0.2 * draw.standard_normal(shape)).astype(np.float32)
  gain = 1.0 if name.startswith("fc") else 2.0
  scale = math.sqrt(gain / math.prod(shape[1:]))
  return (draw.standard_normal(shape) * scale).astype(np.float32)
