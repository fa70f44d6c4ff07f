"""A run that hangs ends with its stacks and code 6; one that works does not."""

import threading
import time

import pytest
from etils import epath

from imagen_jax.core import files
from imagen_jax.train import watchdog
from tests.train import tiny_run


@pytest.fixture
def ended(monkeypatch):
  """Set when the process would have ended."""
  event = threading.Event()
  monkeypatch.setattr(watchdog.os, "_exit", lambda code: event.set())
  return event


def test_turns_in_time_keep_it_quiet_and_a_late_one_does_not(tmp_path, ended):
  told = []
  with watchdog.Watchdog(
    epath.Path(tmp_path), minutes=0.01, report=told.append
  ) as dog:  # 0.6 s
    for step in range(4):
      dog.watch(f"step {step}")
      time.sleep(0.25)
    assert not ended.is_set()
    dog.watch("step 4", slow=True)
    time.sleep(1.0)
    assert not ended.is_set()
    dog.watch("step 5")
    assert ended.wait(3)
  assert told == ["step 5 took longer than the 0.6 s it may take."]
  text = (tmp_path / "stacks.txt").read_text()
  assert "MainThread" in text and "watchdog_test" in text


def test_no_minutes_no_watchdog(tmp_path):
  before = threading.active_count()
  with watchdog.Watchdog(epath.Path(tmp_path), minutes=0.0) as dog:
    dog.watch("a step")
    assert threading.active_count() == before


def test_the_thread_ends_with_the_run(tmp_path, ended):
  with watchdog.Watchdog(epath.Path(tmp_path), minutes=0.005) as dog:
    dog.watch("a step")
  time.sleep(0.8)
  assert not ended.is_set()


@pytest.mark.slow
def test_a_blocked_loader_ends_the_process_with_code_6(tmp_path):
  minutes = 0.05
  run = tiny_run.start(
    {"workdir": tmp_path, "steps": 9, "watchdog_minutes": minutes},
    IMAGEN_FAULT="sleep@loader:4",
  )
  tiny_run.wait_for_rows(tmp_path)
  output, _ = run.communicate(timeout=60 * minutes + 10)
  assert run.returncode == 6
  assert "MainThread" in output and "faults.py" in output
  stacks = (tmp_path / "stacks.txt").read_text()
  assert "in point" in stacks and "step 4 took longer than the 3 s" in stacks
  last = list(files.read_jsonl(tmp_path / "events.jsonl"))[-1]
  assert (last["event"], last["code"]) == ("watchdog", 6)
  assert int(tiny_run.train(tmp_path, 3).step) == 3
