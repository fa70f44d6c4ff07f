"""Five faults put into the scripts on purpose: each is seen by a test.

The tests that must see them are run on the unchanged scripts in
tpu_train_test.py and worker_test.py.
"""

import pathlib
from collections.abc import Callable

import pytest

from tests.launch import dry_run_test, tpu_train_test, worker_test
from tests.launch.launcher import Launcher
from tests.launch.worker_test import Worker

TRAIN_MUTANTS: dict[str, tuple[str, str, str, Callable]] = {
  "no trap": (
    "tpu_train.sh",
    "    trap finish EXIT\n",
    "",
    tpu_train_test.check_sigterm_stops_and_deletes,
  ),
  "no quotes in what is printed": (
    "tpu/slice.sh",
    "printf -v line '%q ' gcloud",
    "printf -v line '%s ' gcloud",
    dry_run_test.check_lines_can_be_pasted,
  ),
  "no quotes in what is sent": (
    "tpu/attempt.sh",
    'train "${ARGUMENTS[@]}"',
    "train ${ARGUMENTS[*]}",
    tpu_train_test.check_arguments_arrive,
  ),
  "no cap on restarts": (
    "tpu/attempt.sh",
    "((++PREEMPTIONS > MAX_PREEMPTIONS))",
    "((++PREEMPTIONS < 0))",
    tpu_train_test.check_preemptions_are_bounded,
  ),
}
WORKER_MUTANTS: dict[str, tuple[str, str, Callable]] = {
  "no lock": (
    "flock --timeout 1 9 &&",
    "true &&",
    worker_test.check_one_trainer,
  ),
  "255 is not mapped": (
    "((code == 255))",
    "((code == 256))",
    worker_test.check_255_becomes_1,
  ),
}


@pytest.mark.parametrize("name", TRAIN_MUTANTS)
def test_a_fault_in_the_launcher_is_seen(tmp_path: pathlib.Path, name: str):
  file, before, after, check = TRAIN_MUTANTS[name]
  launcher = Launcher(tmp_path)
  launcher.mutate(file, before, after)
  with pytest.raises(AssertionError):
    check(launcher)


@pytest.mark.parametrize("name", WORKER_MUTANTS)
def test_a_fault_in_the_worker_is_seen(tmp_path: pathlib.Path, name: str):
  before, after, check = WORKER_MUTANTS[name]
  worker = Worker(tmp_path)
  script = worker.folder / "worker.sh"
  text = script.read_text()
  assert text.count(before) == 1
  script.write_text(text.replace(before, after))
  try:
    with pytest.raises(AssertionError):
      check(worker)
  finally:
    worker.kill()
