"""SIGTERM at any time: a checkpoint, code 42, and at once."""

import random
import signal
import time

import pytest

from imagen_jax.core import files
from tests.train import tiny_run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sigterm_ends_five_runs_of_five(tmp_path, seed):
  chance = random.Random(seed)
  workdirs = [tmp_path / str(i) for i in range(5)]
  runs = [
    tiny_run.start({"workdir": workdir, "steps": 10_000, "pause": 0.02})
    for workdir in workdirs
  ]
  for i, (workdir, run) in enumerate(zip(workdirs, runs, strict=True)):
    tiny_run.wait_for_rows(workdir)
    time.sleep(chance.uniform(0, 0.5))
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)
    if i % 2:  # and once more, while it saves
      time.sleep(chance.uniform(0, 0.05))
      run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=15)
    assert run.returncode == 42, output
    assert time.monotonic() - started < 15
    events = list(files.read_jsonl(workdir / "events.jsonl"))
    assert [e["event"] for e in events[-3:]] == ["save", "preempt", "exit"]
    step = events[-1]["step"]
    assert (workdir / "checkpoints" / f"{step}.manifest.json").exists()
    steps = [row["step"] for row in tiny_run.rows(workdir)]
    assert steps == list(range(1, step + 1))  # nothing is lost
