"""What the loss of a healthy run is, by noise level and step; and what is not.

A file of bands, made from rows of runs that went well:

  {"about": "configs/demo.py:base, 5000 steps, seeds 0 to 2",
   "bands": [{"step": 100, "loss/logsnr_-4_0": [0.21, 0.34], ...}, ...]}

The band of a step holds from it to the next one. A number outside is told in
words: the sum of all noise levels hides which of them is wrong.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from imagen_jax.core import errors, files
from imagen_jax.train import metrics

# Bands by step, each {"step": n, bin: [low, high]}.
Bands: TypeAlias = Sequence[Mapping[str, Any]]


def make(
  rows: Iterable[Mapping[str, Any]],
  steps: Sequence[int],
  *,
  margin: float = 0.25,
) -> list[dict[str, Any]]:
  """Bands at `steps` from the rows of healthy runs, of one or several.

  A band spans the losses from its step to the next, widened by `margin` of
  them: one run does not know how far another strays.
  """
  rows = list(rows)
  bands = []
  for start, end in zip(steps, [*steps[1:], math.inf], strict=True):
    inside = [row for row in rows if start <= row["step"] < end]
    band: dict[str, Any] = {"step": start}
    for name in metrics.bin_names():
      found = [row[name] for row in inside if row.get(name) is not None]
      if found:
        low, high = min(found) / (1 + margin), max(found) * (1 + margin)
        band[name] = [low, high]
    bands.append(band)
  return bands


def write(path: files.PathLike, bands: Bands, *, about: str) -> None:
  """Writes bands; `about` names the config and the runs they are of."""
  kept = [dict(band) for band in bands]
  files.write_json(path, {"about": about, "bands": kept})


def read(path: files.PathLike) -> Bands:
  """The bands of a file that `write` made."""
  try:
    with open(path, encoding="utf-8") as file:
      bands = json.load(file)["bands"]
    return sorted(bands, key=lambda band: band["step"])
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise errors.BadInput(
      f"{str(path)!r} is no file of loss bands ({error}); give one that"
      " loss_bands.write made."
    ) from error


def compare(row: Mapping[str, Any], bands: Bands) -> list[str]:
  """What is wrong with the losses of a row of metrics; [] if nothing is."""
  past = [band for band in bands if band["step"] <= row["step"]]
  if not past:
    return []
  band = past[-1]
  found = []
  for name in metrics.bin_names():
    if name in row and name in band:
      found += _judge(name, row[name], *band[name])
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
