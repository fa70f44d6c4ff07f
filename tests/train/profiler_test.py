"""Which steps are traced, what is refused, and that a trace is made."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.core import errors
from imagen_jax.train import profiler


@pytest.fixture
def calls(monkeypatch):
  found = []
  monkeypatch.setattr(
    jax.profiler, "start_trace", lambda folder: found.append("start")
  )
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
  return found


def run(tmp_path, calls, steps, **window):
  made = profiler.Profiler(tmp_path, **window)
  for step in steps:
    made.before(step)
    calls.append(step)
    made.after(step, jnp.zeros(1))
  made.close()
  return calls


def test_the_window_holds_its_steps_and_no_other(tmp_path, calls):
  window = {"first": 3, "count": 2, "last": 6}
  assert run(tmp_path, calls, range(1, 7), **window) == [
    *(1, 2, "start", 3, 4, "stop", 5, 6)
  ]


def test_no_window_and_one_that_is_past_trace_nothing(tmp_path, calls):
  assert run(tmp_path, calls, [1, 2], first=1, count=0, last=2) == [1, 2]
  calls.clear()
  assert run(tmp_path, calls, [5, 6], first=3, count=2, last=6) == [5, 6]


def test_a_run_that_stops_inside_the_window_ends_the_trace(tmp_path, calls):
  found = run(tmp_path, calls, [1, 2], first=2, count=3, last=6)
  assert found == [1, "start", 2, "stop"]


def test_a_window_beyond_the_run_is_refused_with_the_step_to_begin_at():
  profiler.check(first=9, count=2, last=10)
  with pytest.raises(errors.BadInput, match=r"10 to 11.*10 steps; begin at 9"):
    profiler.check(first=10, count=2, last=10)
  for first, count in ((0, 1), (1, -1)):
    with pytest.raises(errors.BadInput, match="count from 1"):
      profiler.check(first=first, count=count, last=10)


def test_a_trace_is_written(tmp_path):
  made = profiler.Profiler(tmp_path, first=1, count=1, last=1)
  made.before(1)
  made.after(1, jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
  traces = [p for p in tmp_path.rglob("*.xplane.pb") if p.stat().st_size > 0]
  assert len(traces) == 1
