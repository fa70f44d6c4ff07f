"""launch/local.sh, slurm_gpu.sbatch and gke_job.yaml: when they start again."""

import pathlib
import re
import signal
import subprocess
import time

import pytest
import yaml

from tests.launch.launcher import ROOT, heard_interrupts, write_program

LAUNCH = ROOT / "launch"
# Ends as the next line of `codes` says; `wait` is until SIGTERM.
TRAINER = """\
#!/bin/bash
echo "$*" >> "$HOME/starts"
read -r code < "$HOME/codes"
sed -i 1d "$HOME/codes"
if [[ $code == wait ]]; then
  trap 'sleep 0.2; exit 42' TERM
  while :; do sleep 0.05; done
fi
if ((code > 128)); then kill -$((code - 128)) $$; fi
exit "$code"
"""


class Machine:
  """A home with a trainer, and with what is used of Slurm."""

  def __init__(self, home: pathlib.Path):
    self.home = home
    write_program(home / "python", TRAINER)
    note = '#!/bin/bash\necho "$(basename "$0") $*" >> "$HOME/slurm"\n'
    write_program(home / "bin" / "scontrol", note)
    # What srun starts is signalled by scancel, not by way of srun.
    write_program(
      home / "bin" / "srun",
      note + 'shift 2\n"$@" &\necho $! > "$HOME/step"\nwait $!\n',
    )
    write_program(
      home / "bin" / "scancel", note + 'kill -TERM "$(cat "$HOME/step")"\n'
    )

  def start(self, script: str, *codes: object, **variables: str):
    (self.home / "codes").write_text("".join(f"{code}\n" for code in codes))
    with heard_interrupts():
      return subprocess.Popen(
        ["bash", LAUNCH / script, "--workdir=a  b"],
        env={
          "HOME": str(self.home),
          "PATH": f"{self.home}/bin:/usr/bin:/bin",
          "IMAGEN_PYTHON": str(self.home / "python"),
          "IMAGEN_SLEEP": "true",
          "SLURM_SUBMIT_DIR": str(self.home),
          "SLURM_JOB_ID": "77",
          **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )

  def run(self, script: str, *codes: object, **variables: str) -> int:
    process = self.start(script, *codes, **variables)
    process.communicate(timeout=30)
    return process.returncode

  def lines(self, name: str) -> list[str]:
    path = self.home / name
    return path.read_text().splitlines() if path.exists() else []

  def wait_for_start(self) -> None:
    deadline = time.monotonic() + 20
    while not self.lines("starts") or self.lines("codes"):
      assert time.monotonic() < deadline
      time.sleep(0.02)
    time.sleep(0.2)  # for the trap


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
  return Machine(tmp_path)


def test_local_goes_on_until_it_is_trained(machine: Machine):
  assert machine.run("local.sh", 42, 137, 134, 143, 0) == 0
  assert machine.lines("starts") == ["-m imagen_jax train --workdir=a  b"] * 5


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
def test_local_ends_with_what_will_not_mend(machine: Machine, code: int):
  assert machine.run("local.sh", code) == code
  assert len(machine.lines("starts")) == 1


def test_local_has_a_budget(machine: Machine):
  assert machine.run("local.sh", *[42] * 9, MAX_RESTARTS="2") == 42
  assert len(machine.lines("starts")) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_local_lets_it_save_and_ends(machine: Machine, number: int):
  process = machine.start("local.sh", "wait")
  machine.wait_for_start()
  process.send_signal(number)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 42, output
  assert len(machine.lines("starts")) == 1


@pytest.mark.parametrize("code", [42, 134, 137, 143])
def test_slurm_puts_itself_in_the_queue_again(machine: Machine, code: int):
  assert machine.run("slurm_gpu.sbatch", code) == code
  srun, requeue = machine.lines("slurm")
  assert "--kill-on-bad-exit=1" in srun
  assert srun.endswith("--workdir=a  b --coordinator=auto")
  assert requeue == "scontrol requeue 77"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6])
def test_slurm_leaves_other_codes(machine: Machine, code: int):
  assert machine.run("slurm_gpu.sbatch", code) == code
  assert len(machine.lines("slurm")) == 1


def test_slurm_has_a_budget(machine: Machine):
  budget = {"MAX_RESTARTS": "3", "SLURM_RESTART_COUNT": "3"}
  assert machine.run("slurm_gpu.sbatch", 42, **budget) == 42
  assert len(machine.lines("slurm")) == 1


def test_the_end_of_a_slurm_job_is_saved_and_queued(machine: Machine):
  process = machine.start("slurm_gpu.sbatch", "wait")
  machine.wait_for_start()
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 42, output
  assert machine.lines("slurm")[1:] == [
    "scancel --signal=TERM 77",
    "scontrol requeue 77",
  ]


def test_slurm_asks_for_what_preemption_needs():
  text = (LAUNCH / "slurm_gpu.sbatch").read_text()
  wanted = {"--requeue", "--signal=B:TERM@60", "--open-mode=append"}
  assert wanted <= set(re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE))


def test_gke_stops_at_once_at_what_will_not_mend():
  job = yaml.safe_load((LAUNCH / "gke_job.yaml").read_text())
  assert (job["apiVersion"], job["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  policy = job["spec"]["failurePolicy"]
  (rule,) = policy["rules"]
  assert policy["maxRestarts"] == 1000 and rule["action"] == "FailJobSet"
  (slices,) = job["spec"]["replicatedJobs"]
  spec = slices["template"]["spec"]
  (codes,) = [r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"]]
  assert codes["values"] == [2, 3, 4, 5] and spec["backoffLimit"] == 0
  pod = spec["template"]["spec"]
  (container,) = pod["containers"]
  assert codes["containerName"] == container["name"]
  assert pod["restartPolicy"] == "Never"
  assert container["command"][:4] == ["python", "-m", "imagen_jax", "train"]
  assert spec["parallelism"] == spec["completions"] == 4


def test_gke_notes_name_the_codes_to_restart():
  text = (LAUNCH / "gke_job.yaml").read_text()
  assert "--restart-on-exit-codes=42,134,137,143" in text
