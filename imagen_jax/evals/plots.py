"""Plots of a sweep: one number against another, with their intervals.

The paper chooses guidance and aug_level by such plots (Figs. A.8, A.11, A.13):
alignment to the right, distance down; a line a setting, its points labelled by
another. A point is filled if no other is better in both (the Pareto front).

matplotlib is imported where it is used: pip install "imagen_jax[eval]".
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imagen_jax.core import errors, files
from imagen_jax.evals import sweeps

_COLOURS = (
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
)  # fmt: skip
_MARKS = "osD^vP*"


class Axis(NamedTuple):
  """A score, how it is called, and whether more of it is better."""

  score: str
  label: str
  higher_is_better: bool


def front(rows: Sequence[sweeps.Row], x: Axis, y: Axis) -> list[bool]:
  """For each row, whether no other is as good in both and better in one."""
  signs = [1 if axis.higher_is_better else -1 for axis in (x, y)]
  points = [
    tuple(
      sign * row.scores[axis.score].value
      for sign, axis in zip(signs, (x, y), strict=True)
    )
    for row in rows
  ]
  return [
    not any(a >= p and b >= q and (a, b) != (p, q) for a, b in points)
    for p, q in points
  ]


def pareto(
  rows: Sequence[sweeps.Row],
  path: files.PathLike,
  *,
  x: Axis,
  y: Axis,
  lines: Sequence[str],
  label: str,
  title: str,
) -> None:
  """Writes a PNG: a line for each combination of the settings `lines`.

  Points of a line are joined in the order of `rows`; `label` is the setting
  whose value is written beside each.
  """
  if not rows:
    raise errors.BadInput("nothing was measured, so there is nothing to plot.")
  best = front(rows, x, y)
  figure = _figure()
  axes = figure.add_subplot()
  groups: dict[str, list[int]] = {}
  for k, row in enumerate(rows):
    name = ", ".join(f"{line} {row.point[line]}" for line in lines)
    groups.setdefault(name or label, []).append(k)
  for i, (name, chosen) in enumerate(groups.items()):
    some = [rows[k] for k in chosen]
    colour, mark = _COLOURS[i % 7], _MARKS[i % 7]
    xs, ys = ([row.scores[a.score] for row in some] for a in (x, y))
    axes.errorbar(
      [score.value for score in xs],
      [score.value for score in ys],
      xerr=_bars(xs),
      yerr=_bars(ys),
      fmt=f"-{mark}",
      color=colour,
      ecolor=f"{colour}50",
      elinewidth=1,
      markersize=6,
      markerfacecolor="white",
      label=name,
    )
    for k, row in zip(chosen, some, strict=True):
      where = (row.scores[x.score].value, row.scores[y.score].value)
      if best[k]:
        axes.plot(*where, mark, color=colour, markersize=7, zorder=5)
      axes.annotate(
        f"{row.point[label]}",
        where,
        textcoords="offset points",
        xytext=(5, 5),
        fontsize=8,
        color=colour,
      )
  _finish(figure, axes, path, x.label, y.label, title)


def curves(
  lines: Mapping[str, tuple[Sequence[float | int], Sequence[sweeps.Scores]]],
  path: files.PathLike,
  *,
  y: Axis,
  x_label: str,
  title: str,
) -> None:
  """Writes a PNG: a score of several lines over something that rises."""
  figure = _figure()
  axes = figure.add_subplot()
  for i, (name, (xs, found)) in enumerate(lines.items()):
    scores = [row[y.score] for row in found]
    axes.errorbar(
      list(xs),
      [score.value for score in scores],
      yerr=_bars(scores),
      fmt=f"-{_MARKS[i % 7]}",
      color=_COLOURS[i % 7],
      ecolor=f"{_COLOURS[i % 7]}50",
      elinewidth=1,
      markersize=5,
      label=name,
    )
  _finish(figure, axes, path, x_label, y.label, title)


def _bars(scores: Sequence) -> list[list[float]]:
  """What matplotlib takes: distances down and up, none negative."""
  return [
    [max(0.0, score.value - score.low) for score in scores],
    [max(0.0, score.high - score.value) for score in scores],
  ]


def _figure():
  """A figure of matplotlib; BadInput where that is not installed."""
  try:
    from matplotlib import figure
  except ImportError as error:
    raise errors.BadInput(
      "plots need matplotlib; run: pip install matplotlib"
    ) from error
  return figure.Figure(figsize=(6.0, 4.2), dpi=110, layout="constrained")


def _finish(figure, axes, path, x_label: str, y_label: str, title: str) -> None:
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.set_title("\n".join(textwrap.wrap(title, 70)), fontsize=10)
  axes.grid(alpha=0.25)
  axes.legend(fontsize=8, framealpha=0.7)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  files.atomic_write(path, buffer.getvalue())
