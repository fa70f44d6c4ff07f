"""The machine's clock is set forth and back while runs go on."""

import os
import time

import pytest

from imagen_jax.core import files, wall_time
from imagen_jax.train import clock, event_file, events, goodput
from tests.train import processes_test, tiny_run

HOUR = 3600.0


class Skewed:
  """The machine's clock, off by `offset`, or running backwards."""

  def __init__(self, real):
    self._real, self._begun = real, real()
    self.offset, self.rate = 0.0, 1.0

  def __call__(self):
    passed = self._real() - self._begun
    return self._begun + self.rate * passed + self.offset


@pytest.fixture
def skewed(monkeypatch):
  clock = Skewed(time.time)
  monkeypatch.setattr(time, "time", clock)
  wall_time._beginning.cache_clear()  # as in a process of its own
  yield clock
  wall_time._beginning.cache_clear()


def logged(workdir):
  return list(files.read_jsonl(workdir / events.FILE))


def saves(workdir):
  found = [event for event in logged(workdir) if event["event"] == "save"]
  return [event["step"] for event in found]


def check_durations(workdir):
  """Nothing is negative, nothing beyond what the test can have taken."""
  happened, rows = logged(workdir), tiny_run.rows(workdir)
  account = goodput.read(workdir)
  seconds = [event.get("seconds", 0.0) for event in happened]
  names = ("step_time_s", "steps_s", *(f"{wait}_s" for wait in clock.WAITS))
  seconds += [row[name] for row in rows for name in names]
  seconds += [*account.seconds.values(), account.wall]
  assert min(seconds) >= 0 and max(seconds) < 600
  return happened, rows


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("straight")
  state = tiny_run.train(workdir, 6)
  assert saves(workdir) == [2, 4, 6]
  return tiny_run.digest(state)


def settle(workdir, step):
  """Until the last save is sealed: Orbax counts its timeouts by this clock."""
  last, deadline = step - step % 2, time.monotonic() + 60
  sealed = workdir / "checkpoints" / f"{last}.manifest.json"
  while last and not sealed.exists():
    assert time.monotonic() < deadline, f"no checkpoint of step {last}"
    time.sleep(0.01)


def check_like_straight(workdir, state, straight):
  assert tiny_run.digest(state) == straight
  assert saves(workdir) == [2, 4, 6]
  happened, rows = check_durations(workdir)
  for lines in (happened, rows):
    times = [line["time"] for line in lines]
    assert times == sorted(times) and times[-1] - times[0] < 600


@pytest.mark.parametrize(
  "hours", [(1,) * 5, (-1,) * 5, (1, 0, -1, 1, -1), (-1, -2, -3, -4, -5)]
)
def test_a_clock_that_jumps_changes_no_save_and_no_duration(
  tmp_path, skewed, straight, hours
):
  def jump(step, batch):
    settle(tmp_path, step)
    skewed.offset = (0, *hours)[step] * HOUR
    return batch

  state = tiny_run.train(tmp_path, 6, source=tiny_run.Noise(jump))
  assert skewed.offset == hours[-1] * HOUR
  check_like_straight(tmp_path, state, straight)


def test_so_does_a_clock_that_runs_backwards(tmp_path, skewed, straight):
  skewed.rate = -10.0
  state = tiny_run.train(tmp_path, 6)
  check_like_straight(tmp_path, state, straight)


def test_a_clock_set_back_between_two_starts_costs_nothing(
  tmp_path, skewed, straight
):
  tiny_run.train(tmp_path, 3)
  skewed.offset = -HOUR
  wall_time._beginning.cache_clear()
  state = tiny_run.train(tmp_path, 6)
  assert tiny_run.digest(state) == straight
  happened, rows = check_durations(tmp_path)
  assert happened[-1]["time"] < happened[0]["time"]
  assert [row["attempt"] for row in rows] == [1] * 3 + [2] * 3
  account = goodput.read(tmp_path)
  assert (account.steps_kept, account.steps_lost) == (6, 0)


def test_time_goes_on_as_the_monotonic_clock_does(skewed):
  first = wall_time.now()
  skewed.offset = -HOUR
  time.sleep(0.02)
  assert 0.02 <= wall_time.now() - first < 10
  assert time.time() < first - HOUR + 10  # and the clock itself does not


def test_files_of_tensorboard_sort_as_they_were_begun(tmp_path, skewed):
  names = []
  for hours in (0, 1, -1, -1):
    skewed.offset = hours * HOUR
    wall_time._beginning.cache_clear()
    event_file.EventFile(tmp_path).close()
    (new,) = set(os.listdir(tmp_path)) - set(names)
    names.append(new)
  assert names == sorted(names)


@pytest.mark.slow
def test_two_hosts_an_hour_apart_save_the_same_steps(tmp_path):
  clocks = []
  for name, offset in (("ahead", HOUR), ("behind", -HOUR)):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
      f"import time\nreal = time.time\ntime.time = lambda: real() + {offset}\n"
    )
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    clocks.append({"PYTHONPATH": os.pathsep.join(path)})
  workdir = tmp_path / "run"
  with processes_test.two(workdir, faults=clocks, steps=6) as runs:
    for run in runs:
      output, _ = run.communicate(timeout=90)
      assert run.returncode == 0, output
  assert saves(workdir) == [2, 4, 6]
  happened, _ = check_durations(workdir)
  assert happened[0]["time"] > time.time() + HOUR - 600
