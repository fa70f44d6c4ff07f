"""Plots are small PNG files, and the front is the Pareto front."""

import sys

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, plots, sweeps

UP = plots.Axis("object", "standing", True)
DOWN = plots.Axis("distance", "distance", False)


def row(standing, distance, **point):
  scores = {"object": standing, "distance": distance}
  return sweeps.Row(
    point,
    {n: bootstrap.Interval(v, v - 0.1, v + 0.1) for n, v in scores.items()},
  )


ROWS = [
  row(standing, distance, threshold=name, guidance_weight=weight)
  for name, weight, standing, distance in (
    ("none", 1.0, 0.5, 9.0),
    ("none", 3.0, 0.6, 12.0),
    ("dynamic", 1.0, 0.5, 8.0),
    ("dynamic", 3.0, 0.7, 8.0),
  )
]


def test_the_front_has_what_nothing_beats():
  assert plots.front(ROWS, UP, DOWN) == [False, False, False, True]
  assert plots.front(ROWS[:2], UP, DOWN) == [True, True]
  assert plots.front(ROWS[:2], UP, UP) == [False, True]


def test_plots_are_small_png_files(tmp_path):
  pytest.importorskip("matplotlib")
  plots.pareto(
    ROWS,
    tmp_path / "pareto.png",
    x=UP,
    y=DOWN,
    lines=["threshold"],
    label="guidance_weight",
    title="a title " * 20,
  )
  plots.curves(
    {"one": ([1, 2], [r.scores for r in ROWS[:2]])},
    tmp_path / "curves.png",
    y=DOWN,
    x_label="steps",
    title="a title",
  )
  for path in tmp_path.iterdir():
    assert path.stat().st_size < 80_000
    with PIL.Image.open(path) as image:
      assert image.width > 400 and len(set(image.convert("L").getdata())) > 20


def test_a_point_of_the_front_is_filled(tmp_path):
  pytest.importorskip("matplotlib")
  path = tmp_path / "front.png"
  plots.pareto(
    [row(0.5, 9.0, guidance_weight=1)],
    path,
    x=UP,
    y=DOWN,
    lines=[],
    label="guidance_weight",
    title="",
  )
  with PIL.Image.open(path, formats=("PNG",)) as image:
    blue = (np.asarray(image.convert("RGB")) == (0, 114, 178)).all(axis=-1)
  assert blue.sum() > 100  # 139; a ring has 66


def test_no_rows_and_no_matplotlib_are_said_in_one_line(tmp_path, monkeypatch):
  asked = {"x": UP, "y": DOWN, "lines": [], "label": "steps", "title": ""}
  with pytest.raises(errors.BadInput, match="nothing was measured"):
    plots.pareto([], tmp_path / "a.png", **asked)
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(errors.BadInput, match="pip install"):
    plots.pareto(ROWS, tmp_path / "a.png", **asked)
