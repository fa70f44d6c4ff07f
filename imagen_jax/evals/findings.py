"""What a set of measured points says, as one sentence with its uncertainty.

An arm is what is compared: a thresholding, a size, a way of conditioning. Each
arm is taken at its best point by a score, which favours arms with many points a
little. "Apart" means that their 95 % intervals do not overlap; what is not
apart is said to be so, however suggestive the order.
"""

from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.core import errors
from imagen_jax.evals import plots, sweeps


class Best(NamedTuple):
  """An arm's best point by a score."""

  arm: str
  row: sweeps.Row


def ranking(
  rows: Sequence[sweeps.Row], arm: str, axis: plots.Axis
) -> list[Best]:
  """Each arm at its best, the best arm first; `arm` is a name of points."""
  if not rows:
    raise errors.BadInput("nothing was measured, so there is nothing to say.")
  sign = -1 if axis.higher_is_better else 1
  found: dict[str, sweeps.Row] = {}
  for row in sorted(rows, key=lambda r: sign * r.scores[axis.score].value):
    found.setdefault(str(row.point[arm]), row)
  return [Best(name, row) for name, row in found.items()]


def sentence(
  rows: Sequence[sweeps.Row], arm: str, axes: Sequence[plots.Axis]
) -> str:
  """One sentence of the order of arms by each score."""
  parts = [_part(ranking(rows, arm, axis), arm, axis) for axis in axes]
  joined = "; ".join(parts)
  return f"{joined[0].upper()}{joined[1:]}."


def _part(found: list[Best], arm: str, axis: plots.Axis) -> str:
  told = ", ".join(_told(best, arm, axis) for best in found)
  if len(found) == 1:
    return f"by {axis.label}: {told}"
  first, *others = found
  apart = [b.arm for b in others if _apart(first, b, axis)]
  if len(apart) == len(others):
    verdict = f"{first.arm} is apart from all others"
  elif apart:
    verdict = f"{first.arm} is apart only from {', '.join(apart)}"
  else:
    verdict = "none is apart from the first"
  return f"by {axis.label}: {told} ({verdict})"


def _told(best: Best, arm: str, axis: plots.Axis) -> str:
  score = best.row.scores[axis.score]
  digits = 1 if abs(score.value) >= 10 else 2
  where = ", ".join(
    f"{name} {value}" for name, value in best.row.point.items() if name != arm
  )
  value = f"{score.value:.{digits}f}"
  interval = f"[{score.low:.{digits}f}, {score.high:.{digits}f}]"
  return f"{best.arm} {value} {interval}" + (f" at {where}" if where else "")


def _apart(one: Best, other: Best, axis: plots.Axis) -> bool:
  a, b = one.row.scores[axis.score], other.row.scores[axis.score]
  return a.low > b.high or b.low > a.high
