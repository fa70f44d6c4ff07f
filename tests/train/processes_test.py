"""Two processes are one run: its losses, data, checkpoint and end."""

import contextlib
import json
import os
import signal
import socket
import time

import jax
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.train import processes
from tests.train import tiny_run


@pytest.mark.parametrize(
  "given",
  [
    ("a:1", 0, None),
    ("a:1", None, None),
    (None, 0, 2),
    ("auto", 0, 2),
    (None, None, 2),
  ],
)
def test_half_an_address_is_refused(given):
  with pytest.raises(errors.BadInput, match="go together"):
    processes.join(*given)


def test_without_an_address_nothing_is_joined(monkeypatch):
  monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
  processes.join()
  assert not jax.distributed.is_initialized()


def test_a_tpu_of_several_hosts_is_joined_by_itself(monkeypatch):
  seen = []
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda *a, **k: seen.append((a, k))
  )
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a")
  processes.join()
  assert not seen
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
  processes.join()
  (where, options), *_ = seen
  assert where == (None, None, None)
  assert options["heartbeat_timeout_seconds"] <= 60


def test_what_differs_is_named_with_both_values():
  same = {"config": "a", "code": "c"}
  assert processes.disagreement([same, dict(same)]) == ""
  text = processes.disagreement([same, same, same | {"config": "b"}])
  assert "config: process 0 has 'a', process 2 has 'b'" in text
  assert "None" in processes.disagreement([same, {"config": "a"}])


def test_one_process_has_all_rows():
  assert processes.my_rows(8) == slice(0, 8)
  batch = {"x": np.ones(3)}
  assert processes.cut(batch) is batch


def test_the_code_has_a_hash():
  assert len(processes.code_hash()) == 16
  assert processes.code_hash() == processes.code_hash()


@contextlib.contextmanager
def two(workdir, **given):
  """Two processes of one device each; they are killed at the end."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  agree = given.pop("agree", ({}, {}))
  faults = given.pop("faults", ({}, {}))
  runs = [
    tiny_run.start(
      {"workdir": workdir, "join": [address, i, 2, 10], "agree": agree[i]}
      | given,
      **faults[i],
    )
    for i in range(2)
  ]
  try:
    yield runs
  finally:
    for run in runs:
      run.kill()
      run.communicate()


@pytest.mark.slow
def test_two_processes_train_the_run_of_one(tmp_path):
  with two(tmp_path / "two", steps=20) as runs:
    for run in runs:
      output, _ = run.communicate(timeout=90)
      assert run.returncode == 0, output
  one = tiny_run.train(tmp_path / "one", 20)
  losses = [
    [row["loss"] for row in tiny_run.rows(tmp_path / name)]
    for name in ("one", "two")
  ]
  assert len(losses[0]) == 20
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  keys = [
    [json.loads(line) for line in path.read_text().splitlines()]
    for path in sorted((tmp_path / "two").glob("keys_?.jsonl"))
  ]
  both = list(zip(*keys, strict=False))[:20]
  assert len(both) == 20
  for (step, first), (_, second) in both:
    assert first + second == [f"{step}:{row}" for row in range(4)]
  # One checkpoint, which one process reads, and goes on from.
  (tmp_path / "two" / "digest.txt").unlink()
  further = tiny_run.train(tmp_path / "two", 22)
  assert int(further.step) == 22 and int(one.step) == 20


@pytest.mark.slow
def test_processes_that_differ_end_before_the_first_step(tmp_path):
  values = ({"config": "a1"}, {"config": "b2"})
  started = time.monotonic()
  with two(tmp_path, steps=20, agree=values) as runs:
    for run in runs:
      output, _ = run.communicate(timeout=60)
      assert run.returncode == 2
      assert "process 0 has 'a1', process 1 has 'b2'" in output
  assert time.monotonic() - started < 60
  assert not (tmp_path / "events.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_sigterm_to_one_stops_both_at_one_step(tmp_path, which):
  with two(tmp_path, steps=10_000, pause=0.02) as runs:
    tiny_run.wait_for_rows(tmp_path, 5)
    started = time.monotonic()
    runs[which].send_signal(signal.SIGTERM)
    steps = set()
    for run in runs:
      output, _ = run.communicate(timeout=15)
      assert run.returncode == 42, output
      steps.add(output.partition("on request at step ")[2].partition(" ")[0])
    assert time.monotonic() - started < 15
  (step,) = steps
  assert (tmp_path / "checkpoints" / f"{step}.manifest.json").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_other(tmp_path):
  with two(tmp_path, steps=10_000, pause=0.02) as runs:
    tiny_run.wait_for_rows(tmp_path)
    os.kill(runs[1].pid, signal.SIGKILL)
    runs[0].communicate(timeout=10 + 10)  # the heartbeat, and some
    assert runs[0].returncode not in (0, 42)


@pytest.mark.slow
@pytest.mark.parametrize("sleeper", [0, 1])
def test_a_peer_that_sleeps_is_a_hang_of_both(tmp_path, sleeper):
  faults = [{}, {}]
  faults[sleeper] = {"IMAGEN_FAULT": "sleep@loader:4"}
  given = {"steps": 9, "watchdog_minutes": 0.05, "faults": faults}
  with two(tmp_path, **given) as runs:
    tiny_run.wait_for_rows(tmp_path)
    outputs = [run.communicate(timeout=10 + 10)[0] for run in runs]
  # Whose watchdog is first: the other may end as its peer has gone.
  codes = [run.returncode for run in runs]
  assert 6 in codes and set(codes) <= {6, -signal.SIGABRT}, outputs
  assert "MainThread" in outputs[codes.index(6)]


@pytest.mark.slow
def test_a_peer_that_is_stopped_ends_the_other(tmp_path):
  given = {"steps": 10_000, "pause": 0.02, "checkpoint_every": 10_000}
  with two(tmp_path, watchdog_minutes=0.05, **given) as runs:
    tiny_run.wait_for_rows(tmp_path, 5)
    runs[1].send_signal(signal.SIGSTOP)
    output, _ = runs[0].communicate(timeout=3 + 10)
    assert runs[0].returncode == 6, output
