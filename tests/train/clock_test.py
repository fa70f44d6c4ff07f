"""A window's seconds, by a clock of the test's own."""

import jax
import numpy as np
import pytest

from imagen_jax.train import clock as clock_lib


class Time:
  """Seconds that pass when they are told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def at():
  return Time()


def spend(at, clock, what, seconds):
  with clock.waiting(what):
    at.now += seconds


def test_seconds_of_a_row_add_up_to_those_since_the_row_before(at):
  clock = clock_lib.Clock(4, now=at)
  for i in range(3):
    spend(at, clock, "data_wait", 0.5)
    at.now += 2.0
    clock.step()
    spend(at, clock, "save", 0.25 * i)
  at.now += 1.0
  row = clock.close()
  parts = [row[f"{what}_s"] for what in ("steps", *clock_lib.WAITS)]
  np.testing.assert_allclose(sum(parts), at.now - 100.0)
  np.testing.assert_allclose(row["data_wait_s"], 1.5)
  np.testing.assert_allclose(row["save_s"], 0.75)


def test_rates_leave_out_compiling_saving_and_evaluating(at):
  clock = clock_lib.Clock(8, now=at)
  spend(at, clock, "compile", 60.0)
  spend(at, clock, "data_wait", 1.0)
  spend(at, clock, "evaluate", 30.0)
  at.now += 3.0
  clock.step()
  clock.step()
  row = clock.close()
  np.testing.assert_allclose(row["step_time_s"], 2.0)
  np.testing.assert_allclose(row["images_per_s"], 4.0)
  np.testing.assert_allclose(row["data_wait_share"], 0.25)


def test_flops_become_those_of_each_second_and_device(at):
  clock = clock_lib.Clock(16, flops_per_image=3e12, now=at)
  at.now += 2.0
  clock.step()
  expected = 3e12 * 16 / 2 / jax.device_count() / 1e12
  np.testing.assert_allclose(clock.close()["tflops_per_device"], expected)


def test_a_window_knows_nothing_of_the_one_before(at):
  clock = clock_lib.Clock(1, now=at)
  spend(at, clock, "data_wait", 5.0)
  clock.step()
  clock.close()
  at.now += 1.0
  clock.step()
  row = clock.close()
  assert row["data_wait_s"] == 0.0 and row["images_per_s"] == 1.0


def test_a_window_without_a_step_has_no_rates(at):
  clock = clock_lib.Clock(1, now=at)
  at.now += 1.0
  assert "images_per_s" not in clock.close()


def test_a_wait_that_fails_is_counted_and_the_failure_passes(at):
  clock = clock_lib.Clock(1, now=at)
  with pytest.raises(StopIteration), clock.waiting("data_wait"):
    at.now += 2.0
    raise StopIteration
  assert clock.close()["data_wait_s"] == 2.0


def test_memory_of_the_host_is_near_what_is_held():
  before = clock_lib.memory()["host_rss_gb"]
  held = np.ones(25_000_000)  # 0.2 GB
  assert 0.15 < clock_lib.memory()["host_rss_gb"] - before < 0.3
  del held


def test_memory_of_devices_is_that_of_the_fullest(monkeypatch):
  class Device:
    def __init__(self, used):
      self.used = used

    def memory_stats(self):
      return self.used and {"bytes_in_use": self.used}

  devices = [Device(None), Device(2e9), Device(1e9)]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  row = clock_lib.memory()
  assert row["device_gb"] == 2.0 and "device_peak_gb" not in row
