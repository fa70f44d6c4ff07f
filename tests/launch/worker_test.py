"""launch/tpu/worker.sh with real locks and processes, in a home of its own.

The trainer is a shell script that notes each of its starts.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from tests.launch.launcher import ROOT, write_program

TRAINER = """\
#!/bin/bash
echo "$$" >> "$HOME/starts"
printf '%s\\0' "$@" > "$HOME/arguments"
echo "KEY is ${KEY:-not set}"
trap 'sleep 0.1; exit 42' TERM
eval "$(cat "$HOME/behaviour")"
"""
WAITS = "while :; do sleep 0.05; done"
PIP = """\
#!/bin/bash
# python3 -m pip install --target=... uv: leaves a uv that notes what it does.
echo "pip $*" >> "$HOME/installs"
if [[ -e "$HOME/no_network" ]]; then rm "$HOME/no_network"; exit 1; fi
mkdir -p "$HOME/imagen-uv/bin"
cat > "$HOME/imagen-uv/bin/uv" << 'END'
#!/bin/bash
echo "uv $*" >> "$HOME/installs"
if [[ $1 == venv ]]; then mkdir -p "${@: -1}/bin"; exit; fi
[[ ! -e $HOME/broken ]]
END
chmod +x "$HOME/imagen-uv/bin/uv"
"""


@dataclasses.dataclass
class Worker:
  home: pathlib.Path

  def __post_init__(self):
    self.folder = self.home / "imagen-base"
    (self.folder / "code" / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "tpu" / "worker.sh", self.folder)
    lock = self.folder / "code" / "launch" / "requirements-tpu.lock"
    lock.write_text("jax==0\n")
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    self.environment = self.home / f"imagen-venv-{digest}"
    write_program(self.environment / "bin" / "python", TRAINER)
    (self.folder / "command").write_bytes(b"-m\0train\0--workdir=run\0")
    self.behave("exit 0")

  def behave(self, script: str) -> None:
    (self.home / "behaviour").write_text(script)

  def variables(self) -> dict[str, str]:
    path = f"{self.home}/bin:/usr/bin:/bin"
    return {
      "HOME": str(self.home),
      "PATH": path,
      "IMAGEN_WORKER": "t1v-n-a-w-3",
    }

  def popen(self, command: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
      ["bash", self.folder / "worker.sh", command, "base"]
      + [str(a) for a in arguments],
      env=self.variables(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, command: str, *arguments: object) -> str:
    process = self.popen(command, *arguments)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return output

  def report(self) -> list[str]:
    name, index, *rest = self.run("report").split()
    assert (name, index) == ("imagen-worker", "3")
    return rest

  def wait(self, state: str) -> list[str]:
    deadline = time.monotonic() + 20
    while (report := self.report())[0] != state:
      assert time.monotonic() < deadline, report
      time.sleep(0.02)
    return report

  def starts(self) -> list[int]:
    path = self.home / "starts"
    return [int(p) for p in path.read_text().split()] if path.exists() else []

  def wait_for_start(self, count: int = 1) -> int:
    deadline = time.monotonic() + 20
    while len(self.starts()) < count:
      assert time.monotonic() < deadline
      time.sleep(0.02)
    return self.starts()[-1]

  def kill(self) -> None:
    """Ends what a test left running."""
    for pid in self.starts():
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def worker(tmp_path: pathlib.Path):
  made = Worker(tmp_path)
  yield made
  made.kill()


def check_255_becomes_1(worker: Worker):
  worker.behave("exit 255")
  worker.run("start", 1)
  assert worker.wait("ended")[:3] == ["ended", "1", "1"]


def test_255_becomes_1(worker: Worker):
  check_255_becomes_1(worker)


@pytest.mark.parametrize("code", [0, 2, 6, 42])
def test_other_codes_are_kept(worker: Worker, code: int):
  worker.behave(f"exit {code}")
  worker.run("start", 1)
  assert worker.wait("ended")[:3] == ["ended", "1", str(code)]


def test_a_killed_trainer_is_137(worker: Worker):
  worker.behave("kill -KILL $$")
  worker.run("start", 1)
  assert worker.wait("ended")[2] == "137"


def check_one_trainer(worker: Worker):
  worker.behave(WAITS)
  processes = [worker.popen("start", 1 + i % 2) for i in range(20)]
  reports = [process.communicate(timeout=60)[0] for process in processes]
  assert all(" running " in report for report in reports)
  worker.wait_for_start()
  time.sleep(0.3)
  assert len(worker.starts()) == 1


def test_twenty_starts_at_once_make_one_trainer(worker: Worker):
  check_one_trainer(worker)


@pytest.mark.parametrize("behaviour", ["exit 42", "sleep 0.05"])
def test_a_repeated_start_of_an_attempt_that_ended_does_nothing(
  worker: Worker, behaviour: str
):
  worker.behave(behaviour)
  for _ in range(20):
    worker.run("start", 1)
  worker.wait("ended")
  assert len(worker.starts()) == 1
  worker.run("start", 2)
  worker.wait_for_start(2)
  assert worker.wait("ended")[1] == "2"


def test_the_trainer_is_detached(worker: Worker):
  worker.behave(WAITS)
  worker.run("start", 1)
  pid = worker.wait_for_start()
  assert os.getsid(pid) not in (os.getsid(0), os.getpgrp())
  assert (worker.folder / "pid").read_text() == f"{pid}\n"


def test_without_its_supervisor_the_trainer_still_keeps_others_out(
  worker: Worker,
):
  worker.behave(WAITS)
  worker.run("start", 1)
  os.kill(os.getsid(worker.wait_for_start()), signal.SIGKILL)
  assert " running " in worker.run("start", 2)
  assert len(worker.starts()) == 1
  os.kill(worker.starts()[0], signal.SIGKILL)
  assert worker.wait("gone")[1:3] == ["1", "-"]
  worker.run("start", 2)
  worker.wait_for_start(2)


def test_a_signal_to_the_supervisor_leaves_the_end_to_the_trainer(
  worker: Worker,
):
  worker.behave(WAITS)
  worker.run("start", 1)
  pid = worker.wait_for_start()
  os.kill(os.getsid(pid), signal.SIGTERM)
  time.sleep(0.2)
  assert worker.report()[0] == "running"
  os.kill(pid, signal.SIGTERM)
  assert worker.wait("ended")[2] == "42"


def test_stop_lets_it_save(worker: Worker):
  worker.behave(WAITS)
  worker.run("start", 1)
  worker.wait_for_start()
  line = worker.run("stop", 20)
  assert line == "imagen-worker 3 ended 1 42 - -\n"
  assert worker.run("stop", 20) == line  # and may be repeated


def test_stop_says_who_asked(worker: Worker):
  worker.behave(WAITS)
  worker.run("start", 1)
  worker.wait_for_start()
  assert worker.run("stop", 20, "asked").endswith(" 42 - stopped\n")
  worker.run("start", 2)
  worker.wait_for_start(2)
  assert worker.report()[-1] == "-"


def test_stop_kills_what_does_not_listen(worker: Worker):
  worker.behave("trap '' TERM; " + WAITS)
  worker.run("start", 1)
  worker.wait_for_start()
  started = time.monotonic()
  assert " ended 1 137 " in worker.run("stop", 1)
  assert time.monotonic() - started < 10


def test_nothing_has_happened_yet(worker: Worker):
  assert worker.report() == ["idle", "-", "-", "-", "-"]
  assert worker.run("log", 1, 0) == ""


def test_reports_the_newest_sealed_checkpoint(worker: Worker):
  folder = worker.folder / "code" / "run" / "checkpoints"
  (folder / "400").mkdir(parents=True)  # not sealed
  for name in ("90", "100", "100.bad", "x"):
    (folder / f"{name}.manifest.json").touch()
  assert worker.report()[3] == "100"
  elsewhere = worker.home / "else" / "checkpoints"
  elsewhere.mkdir(parents=True)
  (elsewhere / "0700.manifest.json").touch()
  (worker.folder / "command").write_bytes(
    b"a\0--workdir\0%b\0" % str(elsewhere.parent).encode()
  )
  assert worker.report()[3] == "700"


def test_logs_from_a_byte_on(worker: Worker):
  worker.behave("echo one; echo two; exit 5")
  worker.run("start", 1)
  worker.wait("ended")
  whole = worker.run("log", 1, 0)
  assert whole.splitlines()[1:3] == ["one", "two"]
  assert "ended with code 5" in whole
  assert worker.run("log", 1, 8) == whole[8:]
  assert worker.run("log", 1, len(whole)) == ""


def test_arguments_and_secrets_reach_the_trainer(worker: Worker):
  arguments = [b"a  b", b"", b"$(id) 'x' \"y\"\nz"]
  (worker.folder / "command").write_bytes(
    b"".join(a + b"\0" for a in arguments)
  )
  (worker.folder / "env").write_text("KEY='of mine'\n")
  worker.run("start", 1)
  worker.wait("ended")
  assert (worker.home / "arguments").read_bytes().split(b"\0")[:-1] == arguments
  assert "KEY is of mine" in worker.run("log", 1, 0)


def test_logs_are_copied_to_the_bucket(worker: Worker):
  (worker.folder / "settings").write_text("REMOTE_LOGS=gs://b/logs/base\n")
  copies = worker.home / "copies"
  write_program(
    worker.home / "bin" / "gcloud", f'#!/bin/bash\necho "$*" >> "{copies}"\n'
  )
  worker.run("start", 1)
  worker.wait("ended")
  assert copies.read_text() == (
    f"storage cp --quiet {worker.folder}/log-1"
    " gs://b/logs/base/attempt-1/worker-3.log\n"
  )


# Setting up.


def ship(worker: Worker, text: str = "jax==1\n") -> str:
  """Code as tpu_train.sh sends it; its hash."""
  source = worker.home / "source"
  (source / "launch").mkdir(parents=True, exist_ok=True)
  (source / "launch" / "requirements-tpu.lock").write_text(text)
  with tarfile.open(worker.folder / "code.tar.gz", "w:gz") as archive:
    archive.add(source, arcname=".")
  shutil.rmtree(worker.folder / "code", ignore_errors=True)
  write_program(worker.home / "bin" / "python3", PIP)
  write_program(worker.home / "bin" / "sleep", "#!/bin/bash\n")
  data = (worker.folder / "code.tar.gz").read_bytes()
  return hashlib.sha256(data).hexdigest()


def installs(worker: Worker) -> list[str]:
  path = worker.home / "installs"
  return path.read_text().splitlines() if path.exists() else []


def built(worker: Worker) -> list[str]:
  return sorted(p.name for p in worker.home.glob("imagen-venv-*"))


def test_setup_unpacks_and_installs_once(worker: Worker):
  shutil.rmtree(worker.environment)
  sha = ship(worker)
  worker.run("setup", sha)
  assert (worker.folder / "code").readlink().name == f"code-{sha[:12]}"
  pip, venv, sync = installs(worker)
  assert "uv==" in pip and "--python=3.11" in venv
  assert "--require-hashes" in sync and "requirements-tpu.lock" in sync
  worker.run("setup", sha)
  assert len(installs(worker)) == 3 and len(built(worker)) == 1


def test_setup_refuses_what_was_not_sent(worker: Worker):
  ship(worker)
  process = worker.popen("setup", "0" * 64)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 1 and "worker 3: code.tar.gz is not" in errors
  assert not list(worker.folder.glob("code-*"))


def test_setup_tries_again(worker: Worker):
  (worker.home / "no_network").touch()
  worker.run("setup", ship(worker))
  assert len([line for line in installs(worker) if line[:3] == "pip"]) == 2


def test_a_half_built_environment_is_not_used(worker: Worker):
  shutil.rmtree(worker.environment)
  (worker.home / "broken").touch()
  sha = ship(worker)
  process = worker.popen("setup", sha)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 1 and "could not install" in errors
  assert [name[-8:] for name in built(worker)] == [".partial"]
  (worker.home / "broken").unlink()
  worker.run("setup", sha)
  (name,) = built(worker)
  assert not name.endswith(".partial")


def test_another_lock_file_is_another_environment(worker: Worker):
  shutil.rmtree(worker.environment)
  worker.run("setup", ship(worker, "jax==1\n"))
  worker.run("setup", ship(worker, "jax==2\n"))
  assert len(built(worker)) == 2


def test_the_bucket_is_mounted(worker: Worker):
  sha = ship(worker)
  (worker.folder / "settings").write_text("BUCKET=gs://mine\n")
  notes = worker.home / "mounts"
  write_program(
    worker.home / "bin" / "gcsfuse", f'#!/bin/bash\necho "$*" >> "{notes}"\n'
  )
  write_program(worker.home / "bin" / "mountpoint", "#!/bin/bash\nexit 1\n")
  worker.run("setup", sha)
  assert notes.read_text().endswith(f" mine {worker.home}/imagen-bucket\n")
  link = worker.folder / "code" / "bucket"
  assert link.readlink() == worker.home / "imagen-bucket"


def test_no_answer_is_ever_255(worker: Worker):
  for arguments in (["nonsense"], ["setup", "0"], ["stop"], ["log"]):
    process = worker.popen(*arguments)
    process.communicate(timeout=30)
    assert process.returncode in (0, 1, 2), json.dumps(arguments)
