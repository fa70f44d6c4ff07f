"""Rows over restarts, pictures, and W&B by a module of the test's own."""

import json
import sys
import time
import types

import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.train import event_file, writers


@pytest.fixture
def workdir(tmp_path):
  return epath.Path(tmp_path)


def rows(workdir, name=writers.METRICS):
  return list(files.read_jsonl(workdir / name))


def run(workdir, start, stop, **options):
  """Logs `loss` at steps start + 1 to stop."""
  made = writers.make(workdir, start, **options)
  try:
    for step in range(start + 1, stop + 1):
      made.write(step, {"loss": step / 2})
      made.flush()
  finally:
    made.close()


def test_steps_strictly_increase_over_restarts(workdir):
  for start, stop in ((0, 5), (2, 7), (7, 8), (0, 3), (2, 4)):
    run(workdir, start, stop)
    steps = [row["step"] for row in rows(workdir)]
    assert steps == list(range(1, stop + 1))
  lost = [row["step"] for row in rows(workdir, writers.LOST)]
  assert lost == [3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8, 3]


def test_a_torn_last_line_is_cut_off_before_the_next_row(workdir):
  run(workdir, 0, 3)
  with open(workdir / writers.METRICS, "a") as file:
    file.write('{"step": 4, "lo')
  run(workdir, 3, 4)
  text = (workdir / writers.METRICS).read_text()
  assert [json.loads(line)["step"] for line in text.splitlines()] == [
    1,
    2,
    3,
    4,
  ]


def test_values_of_a_step_are_one_row_with_its_time(workdir):
  made = writers.make(workdir, 0)
  made.write(2, {"loss": 0.5})
  made.write(2, {"text_swap": 0.25})
  made.flush()
  made.close()
  (row,) = rows(workdir)
  assert row.pop("time") > 1e9
  assert row == {"step": 2, "attempt": 0, "loss": 0.5, "text_swap": 0.25}


def test_a_later_step_writes_the_row_before_and_an_earlier_one_fails(workdir):
  made = writers.MetricsFile(workdir)
  made.write_scalars(1, {"loss": 1.0})
  made.write_scalars(2, {"loss": 1.0})
  assert [row["step"] for row in rows(workdir)] == [1]
  with pytest.raises(AssertionError, match="step 1 after step 2"):
    made.write_scalars(1, {"loss": 1.0})


def test_rows_are_json_even_where_a_number_is_none(workdir):
  made = writers.MetricsFile(workdir)
  made.write_scalars(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
  made.close()

  def refuse(name):
    raise AssertionError(name)

  (line,) = (workdir / writers.METRICS).read_text().splitlines()
  row = json.loads(line, parse_constant=refuse)
  assert row["a"] is None and row["b"] is None and row["c"] == 1.0


class Kept:
  """A writer that remembers."""

  def __init__(self):
    self.calls = []

  def write_scalars(self, step, scalars):
    self.calls.append((step, sorted(scalars)))

  def write_images(self, step, images):
    self.calls.append((step, {n: x.shape for n, x in images.items()}))

  def flush(self):
    self.calls.append("flush")

  def close(self):
    self.calls.append("close")


def test_all_writers_are_of_the_protocol(workdir):
  for kind in (writers.MetricsFile, writers.Wandb, event_file.EventFile):
    assert issubclass(kind, writers.Writer)
  assert not issubclass(writers.Writers, writers.Writer)


def test_arrays_are_pictures_and_all_else_is_numbers():
  kept = Kept()
  made = writers.Writers([kept])
  made.write(1, {"a": 1.0, "samples": np.zeros((2, 3, 3), np.uint8), "n": 2})
  made.write(2, {})
  made.flush()
  made.close()
  assert kept.calls == [
    (1, ["a", "n"]),
    (1, {"samples": (2, 3, 3)}),
    "flush",
    "close",
  ]


def test_curves_are_under_tb(workdir):
  run(workdir, 0, 2)
  (path,) = (workdir / writers.TENSORBOARD).iterdir()
  assert b"loss" in path.read_bytes()


def test_processes_but_the_first_write_nothing(workdir, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  run(workdir, 0, 2)
  assert list(workdir.iterdir()) == []


class Wandb(types.ModuleType):
  """What we use of wandb, kept in memory."""

  def __init__(self):
    super().__init__("wandb")
    self.inits, self.rows, self.finished = [], [], 0

  def init(self, **options):
    self.inits.append(options)
    return self

  def define_metric(self, name, *, step_metric):
    self.axis = (name, step_metric)

  def log(self, row):
    self.rows.append(row)

  def finish(self):
    self.finished += 1

  def Image(self, pixels):  # noqa: N802
    return ("image", pixels.shape)


def test_wandb_goes_on_with_the_same_run_after_a_restart(workdir, monkeypatch):
  wandb = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  for start, stop in ((0, 3), (1, 2)):
    run(workdir, start, stop, wandb_project="imagen", config={"seed": 1})
  first, second = wandb.inits
  assert first == second and first["resume"] == "allow"
  assert first["config"] == {"seed": 1} and first["project"] == "imagen"
  assert [row["step"] for row in wandb.rows] == [1, 2, 3, 2]
  assert wandb.axis == ("*", "step") and wandb.finished == 2


def test_wandb_gets_pictures(workdir, monkeypatch):
  wandb = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  writer = writers.Wandb(workdir, project="imagen", config={})
  writer.write_images(3, {"samples": np.zeros((2, 3, 3), np.uint8)})
  assert wandb.rows == [{"step": 3, "samples": ("image", (2, 3, 3))}]


def test_wandb_that_is_missing_or_fails_says_what_to_do(workdir, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(errors.BadInput, match=r"'imagen' needs.*imagen_jax\[w"):
    writers.make(workdir, 0, wandb_project="imagen")

  class Offline(Wandb):
    def init(self, **options):
      raise RuntimeError("no API key")

  monkeypatch.setitem(sys.modules, "wandb", Offline())
  with pytest.raises(errors.BadInput, match=r"no API key.*WANDB_MODE=offline"):
    writers.make(workdir, 0, wandb_project="imagen")


def test_a_row_costs_less_than_a_hundredth_of_its_steps(workdir):
  made = writers.make(workdir, 0)
  values = {f"name_{i}": i / 3 for i in range(40)}
  seconds = []
  for step in range(1, 31):
    start = time.perf_counter()
    made.write(step, values)
    made.flush()
    seconds.append(time.perf_counter() - start)
  # Of 50 steps of 10 ms, which is faster than the tiny stage on a CPU.
  assert np.median(seconds) < 0.01 * 50 * 0.01
