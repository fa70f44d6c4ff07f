"""What the loss of a healthy run is, by noise level and step; and what is not.

A file of bands, made from rows of runs that went well:

  {"about": "configs/demo.py:base, 5000 steps, seeds 0 to 2",
   "of": {"data.name": "emoji", "train.batch_size": 16},
   "bands": [{"step": 100, "loss/logsnr_-4_0": [0.21, 0.34], ...}, ...]}

The band of a step holds from it to the next one, and for runs alone whose
config has the fields in `of`. A number outside is told in words: the sum of all
noise levels hides which of them is wrong.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from imagen_jax.core import errors, files
from imagen_jax.train import metrics

# Bands by step, each {"step": n, bin: [low, high]}.
Bands: TypeAlias = Sequence[Mapping[str, Any]]


class Reference(NamedTuple):
  """A file of bands."""

  about: str
  of: Mapping[str, Any]  # fields of a config, "train.batch_size" and its like
  bands: Bands


def make(
  rows: Iterable[Mapping[str, Any]],
  steps: Sequence[int],
  *,
  margin: float = 0.25,
) -> list[dict[str, Any]]:
  """Bands at `steps` from the rows of healthy runs, of one or several.

  A band spans the losses from its step up to and with the next, widened by
  `margin` of them: one run does not know how far another strays. A noise level
  that a row lacks is so rare that its mean tells little, and has no band.
  """
  rows = list(rows)
  names = [
    name
    for name in metrics.bin_names()
    if all(row.get(name) is not None for row in rows)
  ]
  bands = []
  for start, end in zip(steps, [*steps[1:], math.inf], strict=True):
    inside = [row for row in rows if start <= row["step"] <= end]
    if not inside:
      raise errors.BadInput(f"no row is of steps {start} to {end}.")
    band: dict[str, Any] = {"step": start}
    for name in names:
      found = [row[name] for row in inside]
      ends = min(found) / (1 + margin), max(found) * (1 + margin)
      band[name] = [float(f"{end:.4g}") for end in ends]
    bands.append(band)
  return bands


def write(path: files.PathLike, reference: Reference) -> None:
  """Writes a file of bands; `about` is to name the config and the runs."""
  kept = reference._asdict() | {"bands": [dict(b) for b in reference.bands]}
  files.write_json(path, kept)


def read(path: files.PathLike) -> Reference:
  """What `write` wrote."""
  try:
    with open(path, "rb") as file:
      found = files.parse_json(file.read())
    bands = sorted(found["bands"], key=lambda band: band["step"])
    return Reference(found["about"], dict(found["of"]), bands)
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise errors.BadInput(
      f"{str(path)!r} is no file of loss bands ({error}); give one that"
      " loss_bands.write made."
    ) from error


def foreign(reference: Reference, config: Mapping[str, Any]) -> list[str]:
  """The fields in which a config is none that the bands are of."""
  found = []
  for name, wanted in reference.of.items():
    value: Any = config
    for part in name.split("."):
      value = value.get(part) if isinstance(value, Mapping) else None
    if value != wanted:
      found.append(f"{name} is {value!r}, theirs {wanted!r}")
  return found


def judged(row: Mapping[str, Any], bands: Bands) -> dict[str, Sequence[float]]:
  """The bands that a row has a loss for, from noise to image."""
  past = [band for band in bands if band["step"] <= row["step"]]
  band = past[-1] if past else {}
  return {n: band[n] for n in metrics.bin_names() if n in row and n in band}


def compare(row: Mapping[str, Any], bands: Bands) -> list[str]:
  """What is wrong with the losses of a row of metrics; [] if nothing is."""
  found = []
  for name, (low, high) in judged(row, bands).items():
    found += _judge(name, row[name], low, high)
  return found


def _judge(name: str, loss: float | None, low: float, high: float) -> list[str]:
  start, end = name.removeprefix(metrics.PREFIX).split("_")
  where = f"at logsnr {start} to {end} the loss"
  if loss is None or not math.isfinite(loss):
    return [f"{where} is not finite."]
  healthy = f"is {loss:.3g}; in a healthy run it is {low:.3g} to {high:.3g}"
  if loss > high:
    return [f"{where} {healthy}. It is {_times(loss, high)} too high."]
  if loss < low:
    return [
      f"{where} {healthy}. It is {_times(low, loss)} too low: few images, seen"
      " many times, or an input that holds the answer."
    ]
  return []


def _times(large: float, small: float) -> str:
  return f"{large / small:.2g} times" if small > 0 else "far"
