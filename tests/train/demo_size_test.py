"""The promises of a restart, on the demo's networks and through its command."""

import random
import shutil

import pytest

from tests.train import demo_runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "stage", ["sr", pytest.param("base", marks=pytest.mark.nightly)]
)
def test_a_restart_after_a_kill_goes_the_way_of_the_run(tmp_path, stage):
  """Step 2 of a run that is killed, and step 2 of one that goes on from 1."""
  killed, resumed = tmp_path / "killed", tmp_path / "resumed"
  run = demo_runs.start(stage, killed, fault="kill@after_save:3")
  demo_runs.finish(run, code=-9)
  assert demo_runs.committed(killed) == [1, 2]
  shutil.copytree(killed, resumed)
  shutil.rmtree(resumed / "checkpoints" / "2")
  (resumed / "checkpoints" / "2.manifest.json").unlink()

  run = demo_runs.start(stage, resumed, fault="sigterm@after_step:2")
  demo_runs.finish(run, code=42)
  assert [e["step"] for e in demo_runs.events(resumed, "restore")] == [1]
  assert demo_runs.committed(resumed) == [1, 2, 3]
  first, second = (demo_runs.digest(stage, killed, step) for step in (1, 2))
  assert demo_runs.digest(stage, resumed, 2) == second != first
  assert demo_runs.losses(resumed) == demo_runs.losses(killed)


@pytest.mark.nightly
@pytest.mark.parametrize("stage", demo_runs.STAGES)
def test_20_kills_and_11_stops_change_no_bit(tmp_path, stage):
  chance = random.Random(stage)
  acts = ["kill early"] * 5 + ["kill"] * 15 + ["stop"] * 10
  chance.shuffle(acts)
  cut, whole = tmp_path / "cut", tmp_path / "whole"
  for act in [*acts, "stop"]:
    seconds = demo_runs.interrupt(stage, cut, act, chance)
    rows, saved = demo_runs.losses(cut), demo_runs.committed(cut)
    last, newest = max(rows, default=0), max(saved, default=0)
    demo_runs.note(tmp_path, act=act, s=seconds, row=last, saved=newest)
    # A row is written before its step is saved, while the one before may be.
    assert last - newest <= (0 if act == "stop" else 2)
    assert act != "stop" or seconds < 30
  assert not demo_runs.events(cut, "damaged")
  # Each stop has made a step, so the runs after them begin at ten places.
  assert len({e["step"] for e in demo_runs.events(cut, "restore")}) >= 10

  fault = f"sigterm@after_step:{last}"
  demo_runs.finish(demo_runs.start(stage, whole, fault=fault), code=42)
  assert demo_runs.losses(cut) == demo_runs.losses(whole)
  assert list(demo_runs.losses(cut)) == list(range(1, last + 1))
  digests = {demo_runs.digest(stage, run, last) for run in (cut, whole)}
  assert len(digests) == 1
