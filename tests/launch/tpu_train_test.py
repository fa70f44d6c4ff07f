"""launch/tpu_train.sh against a fake gcloud: what it does in each situation.

No test reaches a cloud: see `Launcher.assert_fake`.
"""

import io
import pathlib
import signal
import tarfile
import time

import pytest

from tests.launch.launcher import FLAGS, NAME, TRAIN, Launcher, end


@pytest.fixture
def launcher(tmp_path: pathlib.Path) -> Launcher:
  return Launcher(tmp_path)


def gone(launcher: Launcher) -> bool:
  """Whether what was created has been deleted."""
  return launcher.state["slice"] is None


def shipped_code(launcher: Launcher) -> tarfile.TarFile:
  return tarfile.open(fileobj=io.BytesIO(launcher.shipped("code.tar.gz")))


# A run that goes well.


def test_creates_ships_trains_and_deletes(launcher: Launcher):
  result = launcher.run("--spot")
  assert result.returncode == 0, result.stderr
  calls = [verb for verb in launcher.calls() if verb != "log"]
  assert calls == [
    *("describe", "create", "describe", "scp", "setup", "report", "start"),
    *("report", "report", "delete"),
  ]
  (create,) = launcher.calls("create")
  assert {"--spot", "--accelerator-type=v4-16", "--zone=us-central2-b"} < set(
    create
  )
  assert gone(launcher)
  logs = sorted(p.name for p in (launcher.logs / "attempt-1").iterdir())
  assert logs == ["worker-0.log", "worker-1.log"]
  assert (
    launcher.logs / "attempt-1" / "worker-1.log"
  ).read_text() == "attempt 1 of worker 1\n"
  events = [row["event"] for row in launcher.ledger()]
  assert events == ["create", "start", "end", "delete"]
  assert launcher.ledger("end")[0]["code"] == 0


def test_a_ready_slice_is_used_and_left(launcher: Launcher):
  launcher.set(slice="READY")
  assert launcher.run().returncode == 0
  assert not launcher.calls("create") and not launcher.calls("delete")


def test_keep_keeps(launcher: Launcher):
  result = launcher.run("--keep")
  assert result.returncode == 0 and not launcher.calls("delete")
  assert "costs money" in result.stderr


def test_ships_the_commit_and_no_other_file(launcher: Launcher):
  (launcher.repository / "secret.env").write_text("KEY=1\n")
  assert launcher.run("--commit=HEAD").returncode == 0
  names = shipped_code(launcher).getnames()
  assert "launch/tpu/worker.sh" in names and "secret.env" not in names
  assert ".git" not in names


def test_a_dirty_tree_is_refused_unless_asked(launcher: Launcher):
  (launcher.repository / "README.md").write_text("changed\n")
  result = launcher.run()
  assert result.returncode == 2 and not launcher.calls()
  assert "--allow_dirty" in result.stderr
  assert launcher.run("--allow_dirty").returncode == 0
  readme = shipped_code(launcher).extractfile("README.md")
  assert readme.read() == b"changed\n"


AWKWARD = 'it\'s "so": $(touch pwned) `id` ; & \\ *\nnext'


def check_arguments_arrive(launcher: Launcher):
  extra = (f"--config.note={AWKWARD}", "", "a  b")
  assert launcher.run(train=(*TRAIN, *extra)).returncode == 0
  *arguments, last = launcher.shipped("command").decode().split("\0")
  assert last == ""
  expected = ["-m", "imagen_jax", "train", *TRAIN[1:], *extra]
  assert arguments == [*expected, "--coordinator=auto"]


def test_arguments_arrive_as_they_are(launcher: Launcher):
  check_arguments_arrive(launcher)


def test_a_given_coordinator_is_kept(launcher: Launcher):
  assert launcher.run(train=(*TRAIN, "--coordinator=h:1")).returncode == 0
  assert b"auto" not in launcher.shipped("command")


def test_secrets_must_be_private(launcher: Launcher):
  path = launcher.folder / "keys"
  path.write_text("WANDB_API_KEY=1\n")
  path.chmod(0o644)
  result = launcher.run(f"--env={path}")
  assert result.returncode == 2 and "chmod 600" in result.stderr
  path.chmod(0o600)
  assert launcher.run(f"--env={path}").returncode == 0
  assert launcher.shipped("env") == b"WANDB_API_KEY=1\n"


# Slices in every state.


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
def test_a_dead_slice_is_deleted_and_made_anew(launcher: Launcher, state: str):
  launcher.set(slice=state)
  assert launcher.run("--spot").returncode == 0
  verbs = launcher.calls()
  assert verbs[:4] == ["describe", "delete", "describe", "create"]


def test_slow_provisioning_is_waited_for(launcher: Launcher):
  for n in range(1, 6):
    launcher.answer(f"describe.{n}", 0, "CREATING\t0")
  launcher.set(slice="READY")
  assert launcher.run().returncode == 0
  assert launcher.sleeps()[:5] == [30] * 5


def test_provisioning_has_a_deadline(launcher: Launcher):
  launcher.answer("describe.all", 0, "REPAIRING\t2")
  result = launcher.run("--wait_hours=1", "--poll_seconds=600")
  assert result.returncode == 7 and "no slice in 1 hours" in result.stderr
  assert len(launcher.calls("describe")) == 6


def test_a_stopped_slice_is_not_waited_for(launcher: Launcher):
  launcher.set(slice="STOPPED")
  result = launcher.run()
  assert result.returncode == 7 and "--cleanup" in result.stderr


@pytest.mark.parametrize(
  "message", ["Quota 'TPUV4' exceeded", "PERMISSION_DENIED: no", "gcloud auth"]
)
def test_what_cannot_help_is_not_repeated(launcher: Launcher, message: str):
  launcher.answer("create.all", 1, f"! ERROR: {message}")
  result = launcher.run()
  assert result.returncode == 7 and message in result.stderr
  assert len(launcher.calls("create")) == 1


def test_capacity_is_waited_for(launcher: Launcher):
  for n in range(1, 9):
    launcher.answer(f"create.{n}", 1, "! There is no more capacity in the zone")
  assert launcher.run().returncode == 0
  assert len(launcher.calls("create")) == 9
  waits = launcher.sleeps()[:8]
  for n, wait in enumerate(waits):
    centre = min(10 * 2**n, 600)
    assert 0.75 * centre - 1 <= wait <= 1.25 * centre


def test_an_unknown_failure_is_tried_five_times(launcher: Launcher):
  launcher.answer("create.all", 1, "! ERROR: something odd")
  assert launcher.run().returncode == 7
  assert len(launcher.calls("create")) == 5


def test_a_slice_that_another_makes_is_theirs(launcher: Launcher):
  launcher.answer("create.1", 1, "! ALREADY_EXISTS")
  launcher.answer("describe.1", 1, "! NOT_FOUND")
  launcher.set(slice="READY")
  assert launcher.run().returncode == 0
  assert not launcher.calls("delete")


# Queued resources.


def test_a_queued_resource_is_waited_for(launcher: Launcher):
  launcher.answer("qr-describe.2", 0, "WAITING_FOR_RESOURCES")
  launcher.answer("qr-describe.3", 0, "PROVISIONING")
  assert launcher.run("--queued", "--spot").returncode == 0
  (create,) = launcher.calls("qr-create")
  assert f"--node-id={NAME}" in create and "--spot" in create
  assert gone(launcher) and not launcher.calls("delete")
  assert "--force" in launcher.calls("qr-delete")[0]


def test_a_suspended_resource_is_made_anew(launcher: Launcher):
  launcher.answer("qr-describe.1", 0, "SUSPENDED")
  launcher.set(slice="SUSPENDED")
  assert launcher.run("--queued").returncode == 0
  assert len(launcher.calls("qr-create")) == 1


def test_a_failed_resource_is_explained_and_given_up(launcher: Launcher):
  for n in range(1, 20, 1):
    launcher.answer(
      f"qr-describe.{n}", 0, "FAILED" if n % 2 else "no TPUs left"
    )
  launcher.set(slice="SUSPENDED")
  result = launcher.run("--queued")
  assert result.returncode == 7 and "no TPUs left" in result.stderr
  assert len(launcher.calls("qr-describe")) < 10


# Setting up.


def test_a_worker_that_cannot_be_set_up_is_shown(launcher: Launcher):
  launcher.answer("setup.all", 1, "! worker 1: pip could not install uv")
  result = launcher.run()
  assert result.returncode == 7 and "pip could not install uv" in result.stderr
  assert len(launcher.calls("setup")) == 3 and gone(launcher)


def test_setting_up_is_repeated(launcher: Launcher):
  launcher.answer("setup.1", 1, "! broken pipe")
  launcher.answer("scp.1", 1, "! broken pipe")
  assert launcher.run().returncode == 0


def test_a_slice_lost_while_it_is_set_up_is_made_anew(launcher: Launcher):
  launcher.answer("setup.1", 255, "! connection closed")
  launcher.answer("describe.3", 0, "PREEMPTED\t2")
  assert launcher.run().returncode == 0
  assert len(launcher.calls("setup")) == 2


# Ends of attempts.


@pytest.mark.parametrize("code", [42, 134, 137, 143])
def test_a_preempted_trainer_starts_again(launcher: Launcher, code: int):
  launcher.set(plan=[[code, code]], steps=[100, 200])
  assert launcher.run().returncode == 0
  assert [row["code"] for row in launcher.ledger("end")] == [code, 0]
  assert len(launcher.calls("create")) == 1


def test_a_lost_slice_is_made_anew(launcher: Launcher):
  launcher.set(plan=["lost"], steps=[100])
  result = launcher.run("--spot")
  assert result.returncode == 0, result.stderr
  verbs = launcher.calls()
  assert verbs.count("create") == 2 and verbs.count("delete") == 2
  assert [row["lost"] for row in launcher.ledger("end")] == ["yes", "no"]
  assert gone(launcher)


def check_preemptions_are_bounded(launcher: Launcher):
  launcher.set(plan=[[42, 42]] * 6, steps=list(range(1, 60)))
  result = launcher.run("--max_preemptions=3")
  assert result.returncode == 42 and "used up" in result.stderr
  assert len(launcher.calls("start")) == 4 and gone(launcher)


def test_preemptions_are_bounded(launcher: Launcher):
  check_preemptions_are_bounded(launcher)


@pytest.mark.parametrize("code", [1, 6])
def test_failures_have_a_budget_of_their_own(launcher: Launcher, code: int):
  launcher.set(plan=[[code, code]] * 9, steps=list(range(1, 60)))
  assert launcher.run().returncode == code
  assert len(launcher.calls("start")) == 3


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_some_codes_end_it_at_once(launcher: Launcher, code: int):
  launcher.set(plan=[[code, code]])
  result = launcher.run()
  assert result.returncode == code and len(launcher.calls("start")) == 1
  assert "attempt 1 of worker 0" in result.stderr and gone(launcher)


def test_the_worker_that_says_why_decides(launcher: Launcher):
  launcher.set(plan=[[42, 134, 3]], workers=3)
  result = launcher.run()
  assert result.returncode == 3
  assert "attempt 1 of worker 2" in result.stderr


def test_workers_that_hang_after_another_failed_are_stopped(
  launcher: Launcher,
):
  launcher.set(plan=[[None, 1]])
  assert launcher.run("--max_failures=0").returncode == 1
  assert len(launcher.calls("stop")) == 1


def test_no_progress_in_three_restarts_ends_it(launcher: Launcher):
  launcher.set(plan=[[137, 137]] * 50, steps=[7])
  result = launcher.run()
  assert result.returncode == 137 and len(launcher.calls("start")) == 4
  assert "no newer checkpoint than step 7" in result.stderr
  assert gone(launcher)


def test_pauses_grow_without_progress_only(launcher: Launcher):
  launcher.set(plan=[[42, 42]] * 4, steps=[1, 1, 1, 2, 3])
  assert launcher.run("--poll_seconds=600").returncode == 0
  pauses = [s for s in launcher.sleeps() if s != 600]
  bounds = [(7, 12), (15, 25), (30, 50), (7, 12)]
  assert len(pauses) == 4
  for pause, (low, high) in zip(pauses, bounds, strict=True):
    assert low <= pause <= high


def test_a_broken_connection_is_no_end(launcher: Launcher):
  for n in (2, 3, 4):
    launcher.answer(f"report.{n}", 255, "! connection closed")
  assert launcher.run().returncode == 0
  assert len(launcher.calls("start")) == 1


def test_a_slice_that_is_ready_but_silent_is_given_up(launcher: Launcher):
  launcher.answer("report.all", 255, "! connection closed")
  launcher.answer("start.all", 255, "! connection closed")
  result = launcher.run()
  assert result.returncode == 143 and gone(launcher)


def test_max_hours_stops_saves_and_deletes(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  result = launcher.run("--max_hours=2", "--poll_seconds=600")
  assert result.returncode == 42 and "--max_hours=2" in result.stderr
  assert len(launcher.calls("stop")) == 1 and gone(launcher)
  # Once before the start, and every ten minutes until it was time.
  assert len(launcher.calls("report")) == 1 + 11


def test_a_trainer_that_cannot_be_stopped_is_not_called_trained(
  launcher: Launcher,
):
  line = "imagen-worker {} running 1 - - -"
  launcher.answer("stop.all", 0, line.format(0), line.format(1))
  launcher.set(plan=[[None, None]])
  result = launcher.run("--max_hours=1", "--poll_seconds=1800")
  assert result.returncode == 143 and gone(launcher)
  assert "trained" not in result.stderr


# Signals, and more than one launcher.


def check_sigterm_stops_and_deletes(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  process = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 3)
  errors = end(process)
  assert process.returncode == 143, errors
  assert launcher.calls()[-1] == "delete" and len(launcher.calls("stop")) == 1
  assert launcher.ledger("end")[0]["code"] == 42 and gone(launcher)


def test_sigterm_stops_and_deletes(launcher: Launcher):
  check_sigterm_stops_and_deletes(launcher)


def test_trainers_that_do_not_answer_a_stop_have_not_trained(
  launcher: Launcher,
):
  launcher.answer("stop.all", 1, "! connection closed")
  launcher.set(plan=[[None, None]])
  process = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 3)
  errors = end(process)
  assert "could not stop" in errors and "code 143 on worker" in errors
  assert launcher.ledger("end")[0]["code"] == 143 and gone(launcher)


def test_control_c_while_creating_deletes(launcher: Launcher):
  launcher.answer("create.1", 0, "~ 30")
  launcher.set(slice="CREATING")
  launcher.answer("describe.1", 1, "! NOT_FOUND")
  process = launcher.start(*FLAGS, *TRAIN)
  launcher.wait_for("create")
  started = time.monotonic()
  end(process, signal.SIGINT)
  assert process.returncode == 130 and time.monotonic() - started < 10
  assert launcher.calls()[-1] == "delete"


def test_a_second_launcher_is_refused(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  first = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 2)
  second = launcher.run()
  assert second.returncode == 2 and str(first.pid) in second.stderr
  end(first)
  assert len(launcher.calls("start")) == 1


def test_the_same_line_joins_a_run_whose_launcher_died(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  first = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 2)
  end(first, signal.SIGKILL)
  assert launcher.state["slice"] == "READY"
  launcher.set(plan=[[0, 0]], polls=-1)
  second = launcher.run()
  assert second.returncode == 0 and "joined" in second.stderr
  numbers = [argv[-2].split()[-1] for argv in launcher.calls("start")]
  assert set(numbers) == {"1"} and len(launcher.calls("create")) == 1
  assert gone(launcher)  # it remembers that the run made it


def test_stop_ends_the_run_for_good(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  first = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 2)
  result = launcher.run("--stop", flags=FLAGS[:2], train=())
  assert result.returncode == 0 and "ended 1 42" in result.stdout
  first.communicate(timeout=60)
  assert first.returncode == 42
  assert len(launcher.calls("start")) == 1 and gone(launcher)


def test_stop_from_another_machine_ends_it_too(launcher: Launcher):
  line = "imagen-worker {} ended 1 42 10 stopped"
  launcher.answer("report.3", 0, line.format(0), line.format(1))
  launcher.set(plan=[[None, None]])
  result = launcher.run()
  assert result.returncode == 42 and "ended by --stop" in result.stderr
  assert len(launcher.calls("start")) == 1


# The other modes, and what goes wrong with deleting.


def test_status_asks_and_changes_nothing(launcher: Launcher):
  launcher.set(slice="READY")
  result = launcher.run("--status", flags=FLAGS[:2], train=())
  assert result.returncode == 0
  assert "slice imagen-base: READY, 2 workers" in result.stdout
  assert "imagen-worker 1 idle" in result.stdout
  assert launcher.calls() == ["describe", "report"]


def test_cleanup_deletes_and_may_be_repeated(launcher: Launcher):
  launcher.set(slice="READY")
  for _ in range(2):
    result = launcher.run("--cleanup", flags=FLAGS[:2], train=())
    assert result.returncode == 0 and gone(launcher)


def test_cleanup_ends_the_launcher_too(launcher: Launcher):
  launcher.set(plan=[[None, None]])
  first = launcher.start(*FLAGS, *TRAIN, FAKE_PAUSE="0.05")
  launcher.wait_for("report", 2)
  result = launcher.run("--cleanup", flags=FLAGS[:2], train=())
  assert result.returncode == 0
  first.communicate(timeout=60)
  assert len(launcher.calls("create")) == 1 and gone(launcher)


def test_a_failed_deletion_is_loud(launcher: Launcher):
  launcher.answer("delete.all", 1, "! ERROR: backend")
  result = launcher.run()
  assert "COULD NOT BE DELETED" in result.stderr
  assert f"gcloud compute tpus tpu-vm delete {NAME}" in result.stderr
  assert len(launcher.calls("delete")) == 5
  assert launcher.ledger()[-1]["event"] == "delete_failed"
  launcher.answer("delete.all", 0)
  assert launcher.run("--cleanup", flags=FLAGS[:2], train=()).returncode == 0


def test_logs_that_cannot_be_written_end_it_first(launcher: Launcher):
  launcher.logs.write_text("a file is in the way")
  result = launcher.run()
  assert result.returncode == 2 and "--logs=FOLDER" in result.stderr
  assert not launcher.calls()


BAD_FLAGS = [
  (("--zone=",), "--zone=us-central2-b"),
  (("--zone=somewhere",), "--zone=us-central2-b"),
  (("--accelerator=h100-8",), "--accelerator=v4-512"),
  (("--run=Base!",), "--run=base"),
  (("--run=a;reboot",), "--run=base"),
  (("--bucket=gs://$(id)",), "--bucket=gs://my-bucket"),
  (("--max_hours=two",), "--max_hours=3"),
  (("--spot", "--reserved"), "exclude each other"),
  (("--nonsense",), "unknown flag --nonsense"),
  (("--commit=nowhere",), "no commit nowhere"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS)
def test_bad_flags_call_nothing(launcher: Launcher, flags: tuple, message: str):
  result = launcher.run(*flags)
  assert result.returncode == 2 and message in result.stderr
  assert not launcher.calls()


def test_nothing_to_train_is_said(launcher: Launcher):
  result = launcher.run(train=())
  assert result.returncode == 2 and "nothing to train" in result.stderr


def test_help_names_every_flag(launcher: Launcher):
  text = launcher.run("--help").stdout
  script = (launcher.repository / "launch" / "tpu" / "flags.sh").read_text()
  flags = [word for word in script.split() if word.startswith("--")]
  flags = {f.split("=")[0].rstrip(")") for f in flags if f[-1] == ")"}
  assert len(flags) > 20
  assert not [flag for flag in flags if flag not in text]
