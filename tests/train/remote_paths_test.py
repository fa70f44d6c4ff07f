"""Runs whose workdir is in a bucket: all of a run is there, nothing here."""

import os

import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import files, images
from imagen_jax.train import (
  goodput,
  record,
  restore,
  step_folders,
  watchdog,
  writers,
)
from tests.train import fake_bucket, tiny_run


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  fake_bucket.put_at(tmp_path / "there", monkeypatch)
  yield files.check_writable("gs://bucket/run")
  assert os.listdir(tmp_path / "here") == []
  assert os.listdir(tmp_path / "there") == ["bucket"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  return tiny_run.digest(tiny_run.train(tmp_path_factory.mktemp("local"), 6))


def damage(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_a_run_that_stops_goes_on_and_is_that_of_a_disk(workdir, straight):
  tiny_run.train(workdir, 3)
  state = tiny_run.train(workdir, 6, keep=1)
  assert tiny_run.digest(state) == straight
  steps = [row["step"] for row in files.read_jsonl(workdir / writers.METRICS)]
  assert steps == [1, 2, 3, 4, 5, 6]
  assert step_folders.steps_in(workdir / "checkpoints") == [6]
  names = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert names == {"6", "6.manifest.json"}
  assert len(list((workdir / "tb").iterdir())) == 2
  account = goodput.read(workdir)
  assert (account.steps_kept, account.starts) == (6, 2)


def test_rows_of_steps_that_are_lost_are_taken_back(workdir, straight):
  tiny_run.train(workdir, 5)
  folder = workdir / "checkpoints"
  # As a kill in the midst of the last save leaves them.
  (folder / "5" / "commit_success.txt").unlink()
  (folder / "5.manifest.json").unlink()
  assert step_folders.steps_in(folder) == [2, 4]
  assert tiny_run.digest(tiny_run.train(workdir, 6)) == straight
  lost = [row["step"] for row in files.read_jsonl(workdir / writers.LOST)]
  assert lost == [5]
  assert step_folders.steps_in(folder) == [2, 4, 6]


def test_a_damaged_checkpoint_is_set_aside(workdir, straight):
  tiny_run.train(workdir, 4)
  folder = workdir / "checkpoints"
  damage(next((folder / "4" / "default" / "d").iterdir()))
  assert tiny_run.digest(tiny_run.train(workdir, 6)) == straight
  assert step_folders.bad_in(folder) == ["4.bad"]
  kinds = [e["event"] for e in files.read_jsonl(workdir / "events.jsonl")]
  assert kinds.count("damaged") == 1


def test_parameters_are_read_for_export(workdir):
  state = tiny_run.train(workdir, 2)
  shapes = stage_lib.param_shapes(tiny_run.STAGE)
  found = restore.restore_params(workdir, shapes)
  assert found.step == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    found.params,
    jax.device_get(state.ema_params),
  )


def test_what_a_run_writes_beside_comes_back(workdir, monkeypatch):
  record.write_run(workdir, {"seed": 1}, {"data": "abc"})
  assert record.read_run(workdir)["config"] == {"seed": 1}
  pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  images.write_png(workdir / "samples" / "1.png", pixels)
  assert (workdir / "samples" / "1.png").read_bytes()[:4] == b"\x89PNG"
  monkeypatch.setattr(os, "_exit", lambda code: None)
  dog = watchdog.Watchdog(workdir, minutes=1.0, report=lambda why: None)
  dog._end("it hung")
  assert "it hung" in (workdir / "stacks.txt").read_text()


def test_a_path_from_the_root_stays_in_its_bucket(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.absolute("gs://bucket/run") == epath.Path("gs://bucket/run")
  assert files.absolute("run") == epath.Path(tmp_path / "run")
  assert files.is_remote("gs://bucket") and not files.is_remote("/bucket")
