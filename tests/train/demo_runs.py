"""`imagen train` on the demo's networks, in processes that can be killed.

Network and recipe are the demo's. Batches of two and, for SR, crops of 32
pixels keep a step short; every step is logged and saved.
"""

import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

from etils import epath

from configs import demo
from imagen_jax import build
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import files
from imagen_jax.train import checkpoints, step_folders
from imagen_jax.train import state as state_lib
from tests import house_rules
from tests.train import tiny_run

STAGES = {"base": (), "sr": ("--config.data.crop=32",)}
Act = Literal["kill early", "kill", "stop"]


def start(
  stage: str, workdir: pathlib.Path, fault: str | None = None
) -> subprocess.Popen:
  """The command in a process of its own, with one device."""
  faults = {} if fault is None else {"IMAGEN_FAULT": fault}
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "imagen_jax", "train"),
      f"--config=configs/demo.py:{stage}",
      f"--workdir={workdir}",
      "--config.train.batch_size=2",
      "--config.train.log_every=1",
      "--config.train.checkpoint_every=1",
      "--config.train.keep=3",
      "--config.preview.every=0",
      *STAGES[stage],
    ],
    cwd=house_rules.ROOT,
    env=os.environ | {"XLA_FLAGS": ""} | faults,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(run: subprocess.Popen, code: int) -> None:
  """Waits for the end, which is of this exit code."""
  try:
    output, _ = run.communicate(timeout=600)
  finally:
    run.kill()
  assert run.returncode == code, output[-3000:]


def events(workdir: pathlib.Path, name: str) -> list[dict]:
  """Those of one name, oldest first."""
  path = workdir / "events.jsonl"
  found = files.read_jsonl(path) if path.exists() else []
  return [event for event in found if event["event"] == name]


def committed(workdir: pathlib.Path) -> list[int]:
  """The steps on disk."""
  return step_folders.steps_in(epath.Path(workdir) / "checkpoints")


def losses(workdir: pathlib.Path) -> dict[int, float]:
  """By step; the steps of the rows strictly increase."""
  path = workdir / "metrics.jsonl"
  rows = list(files.read_jsonl(path)) if path.exists() else []
  found = {row["step"]: row["loss"] for row in rows}
  assert [row["step"] for row in rows] == sorted(found)
  return found


def digest(stage: str, workdir: pathlib.Path, step: int) -> str:
  """SHA-256 of a checkpoint's leaves, after its manifest has been verified."""
  assert (workdir / "checkpoints" / f"{step}.manifest.json").exists()
  saver = checkpoints.Checkpoints(workdir)
  state = saver.restore(_abstract(stage), step)
  saver.close()
  assert int(state.step) == step
  return tiny_run.digest(state)


@functools.cache
def _abstract(stage: str) -> state_lib.TrainState:
  config = demo.get_config(stage)
  shapes = stage_lib.param_shapes(build.stage(config.stage))
  return state_lib.abstract(shapes, build.optimizer(config))


def interrupt(
  stage: str, workdir: pathlib.Path, act: Act, chance: random.Random
) -> float:
  """Starts the run, ends it at a random time; the seconds that it took to end.

  An early kill falls between the start and the end of the first step, the
  others, and a stop, in the steps and saves after it.
  """
  compiled = len(events(workdir, "compile"))
  run = start(stage, workdir)
  if act == "kill early":
    time.sleep(chance.uniform(0, 20))
  else:
    _wait(run, lambda: len(events(workdir, "compile")) > compiled)
    step = max(losses(workdir), default=0) + chance.randrange(3)
    _wait(run, lambda: max(losses(workdir), default=0) >= step)
    time.sleep(chance.uniform(0, 2))
  told = time.monotonic()
  run.send_signal(signal.SIGTERM if act == "stop" else signal.SIGKILL)
  finish(run, 42 if act == "stop" else -signal.SIGKILL)
  return time.monotonic() - told


def note(workdir: pathlib.Path, **figures: object) -> None:
  """Adds a line to what a long test tells."""
  with open(workdir / "figures.jsonl", "a") as file:
    file.write(json.dumps(figures) + "\n")


def _wait(run: subprocess.Popen, until: Callable[[], bool]) -> None:
  deadline = time.monotonic() + 600
  while not until():
    assert run.poll() is None, run.communicate()[0][-3000:]
    assert time.monotonic() < deadline
    time.sleep(0.05)
