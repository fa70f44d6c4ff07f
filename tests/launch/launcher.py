"""A copy of launch/ in a git repository of its own, behind a fake gcloud.

Time is a file: `sleep` moves it on and does not wait.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
NAME = "imagen-base"
FLAGS = ("--run=base", "--zone=us-central2-b", "--accelerator=v4-16")
TRAIN = ("--", "--config=configs/demo.py:base", "--workdir=bucket/base")
SLEEP = """\
#!/bin/bash
trap '' TERM  # the clock is set whole, or not at all
echo "$1" >> "$FAKE_CLOUD/sleeps"
exec 8>> "$FAKE_CLOUD/sleep.lock"
flock 8
read -r now < "$FAKE_CLOUD/clock"
echo $((now + $1)) > "$FAKE_CLOUD/clock"
exec 8>&-
trap - TERM
if [[ -n "$FAKE_PAUSE" ]]; then exec /bin/sleep "$FAKE_PAUSE"; fi
"""


def write_program(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


@contextlib.contextmanager
def heard_interrupts() -> Iterator[None]:
  """A test that runs in the background has SIGINT ignored, and bash with it.

  What is started inside hears it: a signal that is handled is reset by exec.
  """
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


@dataclasses.dataclass
class Launcher:
  """`folder` is empty at first; all that is done lies in it."""

  folder: pathlib.Path

  def __post_init__(self):
    self.repository = self.folder / "repository"
    self.cloud = self.folder / "cloud"
    self.logs = self.folder / "my logs"
    for path in (self.cloud / "answers", self.folder / "home"):
      path.mkdir(parents=True)
    shutil.copytree(ROOT / "launch", self.repository / "launch")
    (self.repository / "README.md").write_text("a file\n")
    self.git("init", "--quiet", "--template=")
    self.commit()
    gcloud = f'exec "{sys.executable}" -S -E "{HERE}/fake_gcloud.py" "$@"'
    write_program(self.folder / "bin" / "gcloud", f"#!/bin/bash\n{gcloud}\n")
    write_program(self.folder / "bin" / "fake_sleep", SLEEP)
    (self.cloud / "clock").write_text("1000000\n")
    self.set(slice=None, workers=2, plan=[], steps=[], started=0, polls=0)
    self.environment = {
      "PATH": f"{self.folder}/bin:/usr/bin:/bin",
      "HOME": str(self.folder / "home"),
      "CLOUDSDK_CONFIG": "/nonexistent",
      "FAKE_CLOUD": str(self.cloud),
      "IMAGEN_SLEEP": str(self.folder / "bin" / "fake_sleep"),
      "IMAGEN_CLOCK": str(self.cloud / "clock"),
    }
    self.assert_fake()

  def assert_fake(self) -> None:
    """No test may come near a real gcloud."""
    found = subprocess.run(
      ["bash", "-c", "command -v gcloud"],
      env=self.environment,
      capture_output=True,
      text=True,
      check=True,
    )
    assert found.stdout.strip() == str(self.folder / "bin" / "gcloud")
    assert self.environment["CLOUDSDK_CONFIG"] == "/nonexistent"
    assert not os.listdir(self.environment["HOME"])

  def git(self, *arguments: str) -> None:
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    subprocess.run(["git", *who, *arguments], cwd=self.repository, check=True)

  def commit(self) -> None:
    self.git("add", ".")
    self.git("commit", "--quiet", "--message=all")

  def mutate(self, file: str, before: str, after: str) -> None:
    """Changes a script, which must hold `before` once."""
    path = self.repository / "launch" / file
    text = path.read_text()
    assert text.count(before) == 1, f"{file} holds {before!r} not once"
    path.write_text(text.replace(before, after))
    self.commit()

  def set(self, **values: object) -> None:
    """Changes what the fake cloud is like."""
    path = self.cloud / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(state | values))

  @property
  def state(self) -> dict:
    return json.loads((self.cloud / "state.json").read_text())

  def answer(self, call: str, code: int, *lines: str) -> None:
    """`call` is VERB.N or VERB.all."""
    path = self.cloud / "answers" / call
    path.write_text("\n".join([str(code), *lines]) + "\n")

  def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
    script = self.repository / "launch" / "tpu_train.sh"
    with heard_interrupts():
      return subprocess.Popen(
        ["bash", str(script), f"--logs={self.logs}", *arguments],
        cwd=self.folder,
        env=self.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )

  def run(
    self, *arguments: str, flags: tuple = FLAGS, train: tuple = TRAIN
  ) -> subprocess.CompletedProcess:
    process = self.start(*flags, *arguments, *train)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(
      process.args, process.returncode, output, errors
    )

  def calls(self, verb: str = "") -> list:
    """The verbs of all calls, or the arguments of those of one verb."""
    path = self.cloud / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [json.loads(line) for line in lines]
    return (
      [argv for v, argv in calls if v == verb]
      if verb
      else [v for v, _ in calls]
    )

  def ledger(self, event: str = "") -> list[dict]:
    lines = (self.logs / "ledger.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if event in ("", row["event"])]

  def sleeps(self) -> list[int]:
    return [int(s) for s in (self.cloud / "sleeps").read_text().split()]

  def shipped(self, name: str) -> bytes:
    return (self.cloud / "shipped" / name).read_bytes()

  def wait_for(self, verb: str, count: int = 1) -> None:
    deadline = time.monotonic() + 30
    while len(self.calls(verb)) < count:
      assert time.monotonic() < deadline, f"no {verb} in {self.calls()}"
      time.sleep(0.02)


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> str:
  """Sends a signal; what the launcher wrote on stderr until its end."""
  process.send_signal(number)
  _, errors = process.communicate(timeout=60)
  return errors
