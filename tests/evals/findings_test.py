"""The sentence says the order, and claims a difference only where one is."""

import pytest

from imagen_jax.core import errors
from imagen_jax.evals import bootstrap, findings, plots, sweeps

UP = plots.Axis("object", "standing", True)
DOWN = plots.Axis("distance", "distance", False)


def row(arm, weight, standing, distance, half=0.05):
  def around(value):
    return bootstrap.Interval(value, value - half, value + half)

  scores = {"object": around(standing), "distance": around(distance)}
  return sweeps.Row({"arm": arm, "guidance_weight": weight}, scores)


ROWS = [
  row("mean", 1.0, 0.5, 9.0),
  row("mean", 3.0, 0.6, 12.0),
  row("cross", 1.0, 0.7, 9.05),
  row("cross", 3.0, 0.9, 11.0),
  row("attention", 1.0, 0.62, 30.0),
]


def test_each_arm_is_taken_at_its_best():
  best = findings.ranking(ROWS, "arm", UP)
  assert [(b.arm, b.row.point["guidance_weight"]) for b in best] == [
    ("cross", 3.0),
    ("attention", 1.0),
    ("mean", 3.0),
  ]
  assert [b.arm for b in findings.ranking(ROWS, "arm", DOWN)] == [
    "mean",
    "cross",
    "attention",
  ]


def test_the_sentence_is_honest_about_overlap():
  said = findings.sentence(ROWS, "arm", [UP, DOWN])
  up, down = said.split("; ")
  assert up.startswith("By standing: cross 0.90 [0.85, 0.95] at guidance")
  assert "cross is apart from all others" in up
  assert "mean is apart only from attention" in down
  wide = [row("a", 1.0, 0.5, 1.0, half=9), row("b", 1.0, 0.6, 1.0, half=9)]
  assert "none is apart" in findings.sentence(wide, "arm", [UP])


def test_nothing_is_said_of_nothing():
  with pytest.raises(errors.BadInput, match="nothing to say"):
    findings.sentence([], "arm", [UP])
