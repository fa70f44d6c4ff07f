"""Saves that are killed, run out of disk, or are made by two processes."""

import os
import re
import socket
import subprocess
import sys

import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.train import checkpoints, restore, step_folders
from tests import house_rules
from tests.train import saving_job, states

pytestmark = pytest.mark.slow


def start(*arguments, devices=1):
  flags = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [sys.executable, "-m", "tests.train.saving_job", *map(str, arguments)],
    cwd=house_rules.ROOT,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(job, code=0):
  try:
    out, err = job.communicate(timeout=120)
  finally:
    job.kill()
  assert job.returncode == code, err[-3000:]
  return out


def test_20_kills_leave_no_wrong_byte_and_lose_no_committed_step(tmp_path):
  out = finish(start("kills", tmp_path))
  steps = int(re.match(r"20 kills, (\d+) steps", out)[1])
  assert steps >= 10
  # Some did fall inside a save.
  assert sum(map(int, re.findall(r": (\d+)", out))) > 0


def test_a_kill_at_each_named_point_is_survived(tmp_path):
  out = finish(start("points", tmp_path))
  restored = dict(re.findall(r"(\S+) restored (\d+)", out))
  assert list(restored) == list(saving_job.POINTS)
  # Deletion begins with the third save, of the two that are kept.
  assert [int(step) for step in restored.values()] == [1, 2, 2, 2, 4]


def test_a_full_disk_ends_at_the_save_that_failed_with_exit_code_5(tmp_path):
  out = finish(start("full", tmp_path), code=errors.CheckpointError.exit_code)
  assert out.startswith("[1] could not save step 2 in")
  assert "File too large" in out and "as they were ([1])" in out
  folder = epath.Path(tmp_path) / "checkpoints"
  assert any("orbax-checkpoint-tmp" in path.name for path in folder.iterdir())
  saver = checkpoints.Checkpoints(tmp_path)
  assert {p.name for p in folder.iterdir()} == {"1", "1.manifest.json"}
  assert states.equal(saver.restore(states.abstract()), states.at(1))
  saver.close()


def test_two_processes_save_fall_back_and_restore_as_one(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  jobs = [start("pair", tmp_path, port, i, devices=2) for i in (0, 1)]
  for i, out in enumerate([finish(job) for job in jobs]):
    assert f"process {i} of 2 restored step 2" in out
  folder = epath.Path(tmp_path) / "checkpoints"
  assert step_folders.steps_in(folder) == [2]
  # And one process reads what two have written.
  saver = checkpoints.Checkpoints(tmp_path)
  assert states.equal(saver.restore(states.abstract()), states.at(2))
  saver.close()
  shapes = states.abstract().params
  found = restore.restore_params(tmp_path, shapes, which="raw")
  assert states.equal(found.params, states.at(2).params)
