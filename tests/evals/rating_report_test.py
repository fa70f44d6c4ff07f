"""Reports of answers that the test gave, so that every count is known."""

import csv
import json

import pytest

from imagen_jax.core import errors
from imagen_jax.evals import (
  rating_files,
  rating_plan,
  rating_report,
  rating_store,
)
from tests.evals import rating_sets


def study(tmp_path, protocol, raters, **more):
  sets = rating_sets.pair(tmp_path, n=6, samples=1)
  plan = rating_plan.make(
    *sets, protocol=protocol, names=("<b>new</b>", "old"), **more
  )
  return rating_store.create(tmp_path / "r.sqlite", plan, raters=raters)


def tell(store, rater, meanings):
  """Answers all trials; `meanings(trial)` says what is meant, unblinded."""
  for turn in rating_plan.schedule(store.plan, rater):
    trial = store.plan.trials[turn.trial]
    sides = {turn.left: "left"}
    sides |= {({"a", "b"} - {turn.left}).pop(): "right"}
    meant = meanings(trial)
    choices = {name: sides.get(m, m) for name, m in meant.items()}
    assert store.answer(rater, turn.trial, choices) == "kept"


def rows(report, name):
  (measure,) = [m for m in report.measures if m.name == name]
  return {row.name: row for row in measure.rows}, measure


def test_preferences_by_category_whatever_the_sides(tmp_path):
  store = study(tmp_path, "drawbench", 3, control_every=3)

  def likes_a(trial):
    colors = trial.category == "Colors"
    return {"quality": "a", "alignment": "a" if colors else "indifferent"}

  def likes_b(trial):
    return {"quality": "b", "alignment": "b"}

  tell(store, 1, likes_a)
  tell(store, 2, likes_b)
  report = rating_report.make(store, draws=100)
  quality, measure = rows(report, "quality")
  assert {name: row.count for name, row in quality.items()} == {
    "all": 12, "Colors": 6, "Text": 6,
  }  # fmt: skip
  assert quality["all"].rate.value == 0.5
  assert quality["all"].shares == {
    "<b>new</b>": 0.5, "indifferent": 0, "old": 0.5,
  }  # fmt: skip
  assert measure.same == 0 and measure.alpha < 0
  alignment, _ = rows(report, "alignment")
  assert alignment["Colors"].rate.value == 0.5
  assert alignment["Text"].rate.value == 0.25
  # Two controls: a is right there; drawbench leaves nobody out.
  assert [tuple(row) for row in report.raters] == [
    (1, 8, 4, 2 + sum(t.category == "Colors" for t in store.plan.trials[6:]),
     True),
    (2, 8, 4, 0, True),
    (3, 0, 0, 0, True),
  ]  # fmt: skip
  strict = rating_report.make(store, min_control=0.5, draws=100)
  assert rows(strict, "quality")[0]["all"].rate.value == 1
  store.close()


def test_coco_counts_real_and_captions_and_leaves_out_who_fails(tmp_path):
  store = study(tmp_path, "coco", 2, control_every=6)

  def careful(trial):
    if trial.expected:
      return {name: right[0] for name, right in trial.expected.items()}
    if trial.kind == "real":
      return {"real": "a" if trial.category == "Colors" else "b"}
    return {"caption": {"a": "somewhat", "b": "yes"}[trial.a[0].source]}

  def careless(trial):
    return {"real": "b"} if trial.kind == "real" else {"caption": "somewhat"}

  tell(store, 1, careful)
  tell(store, 2, careless)
  report = rating_report.make(store, draws=100)
  assert [row.kept for row in report.raters] == [True, False]
  real, _ = rows(report, "real")
  assert (real["all"].rate.value, real["all"].count) == (0.5, 6)
  assert (real["Colors"].rate.value, real["Text"].rate.value) == (1, 0)
  assert rows(report, "caption_a")[0]["all"].rate.value == 0.5
  assert rows(report, "caption_b")[0]["all"].rate.value == 1
  everyone = rating_report.make(store, min_control=0.0, draws=100)
  assert rows(everyone, "caption_b")[0]["all"].rate.value == 0.75
  store.close()


def test_the_files_hold_every_answer_and_escape_texts(tmp_path):
  store = study(tmp_path, "drawbench", 1, control_every=0)
  tell(store, 1, lambda trial: {"quality": "a", "alignment": "b"})
  report = rating_report.make(store, draws=100)
  rating_files.write(report, tmp_path / "out")
  with open(tmp_path / "out" / "answers.csv", newline="") as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 12
  assert {
    line["meaning"] for line in lines if line["question"] == "quality"
  } == {"a"}
  for line in lines:
    shown = {"left": line["left"], "right": "ab".replace(line["left"], "")}
    assert shown[line["choice"]] == line["meaning"]
  assert rating_sets.SCRIPT in {line["prompt"] for line in lines}
  page = (tmp_path / "out" / "report.html").read_text()
  assert "<b>new" not in page and "&lt;b&gt;new&lt;/b&gt;" in page
  assert "<script" not in page
  value = json.loads((tmp_path / "out" / "report.json").read_text())
  assert value["measures"]["quality"]["rows"][0]["rate"] == 1
  store.close()


def test_a_study_without_answers_has_a_report(tmp_path):
  store = study(tmp_path, "drawbench", 1)
  report = rating_report.make(store)
  assert report.measures == ()
  assert "No answer has been given yet" in rating_files.page(report)
  store.close()
  with pytest.raises(errors.BadInput):
    rating_store.open_study(tmp_path)
