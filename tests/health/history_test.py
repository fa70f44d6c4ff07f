"""Losses against bands, and where time went."""

import json

import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.health import history
from imagen_jax.train import loss_bands

BANDS = loss_bands.Reference(
  "a run",
  {"data.name": "emoji"},
  [{"step": 2, "loss/logsnr_-4_0": [0.2, 0.4]}],
)
CONFIG = {"data": {"name": "emoji"}}


def row(loss=0.3, inner=0.3):
  return {"step": 5, "loss": loss, "loss/logsnr_-4_0": inner}


def test_losses_in_their_bands_are_well():
  found = history.losses(row(), BANDS, CONFIG)
  assert found.level == "ok" and "at 1 of 10 noise levels" in found.said


def test_a_loss_out_of_its_band_is_told():
  found = history.losses(row(inner=4.0), BANDS, CONFIG)
  assert found.level == "warning" and "10 times too high" in found.said


def test_without_bands_nothing_is_known():
  found = history.losses(row(), None, CONFIG)
  assert found.level == "skipped" and "--bands" in found.said


def test_bands_of_other_data_or_later_steps_are_not_compared_with():
  found = history.losses(row(inner=4.0), BANDS, {"data": {"name": "images"}})
  assert found.level == "skipped"
  assert "data.name is 'images', theirs 'emoji'" in found.said
  found = history.losses(row(inner=4.0) | {"step": 1}, BANDS, CONFIG)
  assert found.level == "skipped" and "no bands of this step" in found.said


def test_a_loss_that_is_not_finite_needs_no_bands():
  found = history.losses(row(loss=None), None, CONFIG)
  assert found.level == "problem" and found.error is errors.NonFinite


def write_rows(workdir, rows):
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (workdir / "metrics.jsonl").write_text(text)


def test_the_newest_row_is_the_last_with_a_loss(tmp_path):
  workdir = epath.Path(tmp_path)
  assert history.newest_row(workdir) is None
  rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 3}]
  write_rows(workdir, rows)
  assert history.newest_row(workdir)["step"] == 2


def test_the_first_row_of_a_start_is_of_one_step_and_taken_last(tmp_path):
  workdir = epath.Path(tmp_path)
  first = {"step": 1, "loss": 2.0, "compile_s": 9.0}
  write_rows(workdir, [first])
  assert history.newest_row(workdir)["step"] == 1
  again = {"step": 3, "loss": 9.0, "compile_s": 9.0}
  write_rows(workdir, [first, {"step": 2, "loss": 1.0, "compile_s": 0}, again])
  assert history.newest_row(workdir)["step"] == 2


def write_run(workdir, seconds, waited):
  events = [
    {"event": "start", "step": 0, "time": 0.0},
    {"event": "exit", "step": 9, "time": seconds, "reason": "done"},
  ]
  metrics = {"step": 9, "time": seconds, "loss": 1.0, "data_wait_s": waited}
  for name, rows in (("events", events), ("metrics", [metrics])):
    text = "".join(json.dumps(line) + "\n" for line in rows)
    (workdir / f"{name}.jsonl").write_text(text)


@pytest.mark.parametrize(
  ("seconds", "waited", "level"),
  [(4000.0, 100.0, "ok"), (4000.0, 3000.0, "warning"), (40.0, 30.0, "ok")],
)
def test_time_that_is_not_training_is_told(tmp_path, seconds, waited, level):
  workdir = epath.Path(tmp_path)
  write_run(workdir, seconds, waited)
  found = history.time(workdir)
  assert found.level == level
  assert "productive" in found.said and "data_wait" in found.said
  assert ("data.threads" in found.remedy) == (level == "warning")


def test_a_run_without_events_is_passed_over(tmp_path):
  assert history.time(epath.Path(tmp_path)).level == "skipped"
