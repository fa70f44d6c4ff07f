"""Grids of sampler settings, measured point by point into `results.jsonl`.

  grid({"guidance_weight": (1, 3), "steps": (8, 16)}) -> four points

A folder of a sweep holds

  parts/I-of-N.jsonl  what process I of N measured, one object a line:
      {"point": {"guidance_weight": 1.0, ...}, "identity": "1f0c...",
       "seconds": 3.1, "scores": {"colour": [value, low, high], ...}}
  results.jsonl       all parts together, in the order of the grid
  sweep.json          what the identity is the hash of

A point that any part has is not measured again, so a sweep that was stopped
goes on, on any number of processes, and parts of several machines may be copied
together. What a metric is, is the caller's.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.evals import bootstrap

Setting: TypeAlias = str | int | float
Point: TypeAlias = dict[str, Setting]
Scores: TypeAlias = dict[str, bootstrap.Interval]
Measure: TypeAlias = Callable[[Point], Scores]

RESULTS = "results.jsonl"
SETTINGS = "sweep.json"
_PARTS = "parts"


class Shard(NamedTuple):
  """Points index, index + count, ... of the grid are this process's."""

  index: int = 0
  count: int = 1


WHOLE = Shard()


class Row(NamedTuple):
  """A point and its numbers."""

  point: Point
  scores: Scores


def grid(axes: Mapping[str, Sequence[Setting]]) -> list[Point]:
  """Every combination, the last axis running fastest."""
  for name, values in axes.items():
    if not values or len(set(values)) < len(values):
      raise errors.BadInput(
        f"the values of {name} are {list(values)}; give one at least, each"
        " once."
      )
  return [
    dict(zip(axes, values, strict=True))
    for values in itertools.product(*axes.values())
  ]


def parse_shard(text: str) -> Shard:
  """ "1/4" is the second of four."""
  index, slash, count = text.partition("/")
  if slash and index.isdecimal() and count.isdecimal():
    shard = Shard(int(index), int(count))
    if shard.index < shard.count:
      return shard
  raise errors.BadInput(
    f"shard {text!r} is not I/N with I from 0 to N - 1, as 0/4 of 4 processes."
  )


def run(
  points: Sequence[Point],
  measure: Measure,
  folder: files.PathLike,
  *,
  identity: Mapping[str, object],
  shard: Shard = WHOLE,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
  """Measures the points of `shard` that are not done; all rows there are.

  `identity` says what else decides the numbers: weights, prompts, seeds.
  `progress` gets how many of the shard's points are done.
  """
  folder = files.check_writable(folder)
  digest = _digest(identity)
  if not (folder / SETTINGS).exists():
    files.write_json(folder / SETTINGS, dict(identity))
  own = points[shard.index :: shard.count]
  done = _read(folder, digest)
  left = [point for point in own if _key(point) not in done]
  progress(len(own) - len(left), len(own))
  part = folder / _PARTS / f"{shard.index}-of-{shard.count}.jsonl"
  part.parent.mkdir(parents=True, exist_ok=True)
  for number, point in enumerate(left, len(own) - len(left) + 1):
    start = time.monotonic()
    scores = measure(point)
    row = {
      "point": point,
      "identity": digest,
      "seconds": round(time.monotonic() - start, 2),
      "scores": {name: list(score) for name, score in scores.items()},
    }
    files.append_jsonl(part, row)
    progress(number, len(own))
  return merge(points, folder, identity=identity)


def merge(
  points: Sequence[Point],
  folder: files.PathLike,
  *,
  identity: Mapping[str, object],
) -> list[Row]:
  """Writes `results.jsonl` of what all parts have; its rows."""
  folder = epath.Path(folder)
  done = _read(folder, _digest(identity))
  rows = [done[_key(point)] for point in points if _key(point) in done]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  files.atomic_write(folder / RESULTS, lines.encode())
  return [_row(row) for row in rows]


def _read(folder: epath.Path, digest: str) -> dict[str, dict]:
  """The objects of all parts by point; BadInput for those of another sweep."""
  found = {}
  parts = folder / _PARTS
  for path in sorted(parts.glob("*.jsonl")) if parts.exists() else ():
    for row in files.read_jsonl(path):
      if row.get("identity") != digest:
        raise errors.BadInput(
          f"{path} was measured with other weights, prompts or metrics than"
          f" asked for now ({folder / SETTINGS} says with which); give another"
          " --out."
        )
      found[_key(row["point"])] = row
  return found


def _row(row: dict) -> Row:
  scores = {n: bootstrap.Interval(*three) for n, three in row["scores"].items()}
  return Row(row["point"], scores)


def _key(point: Point) -> str:
  return json.dumps(point, sort_keys=True)


def _digest(identity: Mapping[str, object]) -> str:
  text = json.dumps(identity, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
