"""A gcloud that knows TPU slices and no cloud, to test launch/tpu_train.sh.

  FAKE_CLOUD=FOLDER python fake_gcloud.py compute tpus tpu-vm describe ...

FOLDER/calls.jsonl gets a line a call: [verb, [arguments]]. A verb is that of
gcloud (describe, create, delete, scp; with qr- before it for a queued resource)
or, of an ssh, that of worker.sh (setup, start, report, log, stop).

An answer FOLDER/answers/VERB.N, of the Nth call, or VERB.all comes before all
else: an exit code in the first line; then what is printed, "! " for stderr, and
"~ 3" for a pause of three seconds.

Without one, the slice of FOLDER/state.json answers. `plan` holds what becomes
of each attempt: the exit codes of its workers, None for one that runs until it
is stopped, or "lost"; `steps` the newest checkpoint at its end. With `homes`,
the workers are folders of this machine, and worker.sh runs there in earnest.
"""

# Few imports, and few at the start: a test starts this dozens of times.
import fcntl
import json
import os
import sys
import time

FOLDER = os.environ["FAKE_CLOUD"]
POLLS = 1  # reports of an attempt that say `running`


def verb_of(argv: list[str]) -> str:
  _, _, kind, verb = argv[:4]
  if verb == "ssh":
    return option(argv, "command").split()[2]
  return f"qr-{verb}" if kind == "queued-resources" else verb


def option(argv: list[str], name: str) -> str:
  flags = [a.removeprefix(f"--{name}=") for a in argv if f"--{name}=" in a]
  return flags[0] if flags else ""


def count_call(verb: str, argv: list[str]) -> int:
  with open(f"{FOLDER}/calls.jsonl", "a+") as file:
    file.seek(0)
    before = sum(json.loads(line)[0] == verb for line in file)
    file.write(json.dumps([verb, argv]) + "\n")
  return before + 1


def answer(path: str) -> int:
  with open(path) as file:
    code, *lines = file.read().splitlines()
  for line in lines:
    if line.startswith("~ "):
      time.sleep(float(line[2:]))
    elif line.startswith("! "):
      print(line[2:], file=sys.stderr)
    else:
      print(line)
  return int(code)


def missing() -> int:
  print("ERROR: NOT_FOUND: Resource was not found", file=sys.stderr)
  return 1


class Slice:
  """What state.json says, and how it answers."""

  def __init__(self, state: dict):
    self.state = state

  def describe(self, argv: list[str]) -> int:
    if self.state["slice"] is None:
      return missing()
    print(self.state["slice"], self.state["workers"], sep="\t")
    return 0

  def qr_describe(self, argv: list[str]) -> int:
    if self.state["slice"] is None:
      return missing()
    print("ACTIVE" if self.state["slice"] == "READY" else "SUSPENDED")
    return 0

  def create(self, argv: list[str]) -> int:
    self.state |= {"slice": "READY", "running": False, "started": 0}
    return 0

  def delete(self, argv: list[str]) -> int:
    if self.state["slice"] is None:
      return missing()
    self.state["slice"] = None
    return 0

  qr_create, qr_delete = create, delete

  def scp(self, argv: list[str]) -> int:
    os.makedirs(f"{FOLDER}/shipped", exist_ok=True)
    for entry in os.scandir(argv[5]):
      with open(entry.path, "rb") as source:
        data = source.read()
      with open(f"{FOLDER}/shipped/{entry.name}", "wb") as target:
        target.write(data)
    return 0

  def setup(self, argv: list[str]) -> int:
    return 0

  def start(self, argv: list[str]) -> int:
    number = int(option(argv, "command").split()[-1])
    if number > self.state["started"]:
      self.state |= {"started": number, "running": True, "polls": 0}
    return self.tell()

  def report(self, argv: list[str]) -> int:
    if self.outcome() == "lost" and self.state["polls"] >= POLLS:
      self.state |= {"slice": "PREEMPTED", "running": False}
    if self.state["slice"] != "READY":
      print("ERROR: the TPU is PREEMPTED", file=sys.stderr)
      return 1
    code = self.tell()
    self.state["polls"] += 1
    return code

  def stop(self, argv: list[str]) -> int:
    self.state["stopped"] = True
    mark = option(argv, "command").split()[-1] == "asked"
    return self.tell("stopped" if mark else "-")

  def log(self, argv: list[str]) -> int:
    *_, attempt, offset = option(argv, "command").split()
    if offset == "0":
      print(f"attempt {attempt} of worker {option(argv, 'worker')}")
    return 0

  def outcome(self) -> list[int | None] | str:
    plan, number = self.state["plan"], self.state["started"]
    if not 0 < number <= len(plan):
      return [0] * self.state["workers"]
    return plan[number - 1]

  def tell(self, mark: str = "-") -> int:
    number, steps = self.state["started"], self.state["steps"]
    step = steps[min(number, len(steps)) - 1] if steps and number else "-"
    early = self.state["polls"] < POLLS and not self.state.get("stopped")
    for worker in range(self.state["workers"]):
      code = "-"
      if number == 0:
        status = "idle"
      elif early or self.outcome() == "lost":
        status = "running"
      else:
        code = self.outcome()[worker]
        status = "ended"
        if code is None:
          status, code = "running", "-"
          if self.state.get("stopped"):
            status, code = "ended", 42
      print("imagen-worker", worker, status, number or "-", code, step, mark)
    return 0


class Homes(Slice):
  """Workers that are folders of this machine."""

  def homes(self, argv: list[str]) -> dict[int, str]:
    which, count = option(argv, "worker"), self.state["workers"]
    workers = range(count) if which == "all" else [int(which)]
    return {worker: f"{FOLDER}/homes/{worker}" for worker in workers}

  def scp(self, argv: list[str]) -> int:
    import shutil

    for home in self.homes(argv).values():
      target = f"{home}/{os.path.basename(argv[5])}"
      shutil.copytree(argv[5], target, dirs_exist_ok=True)
    return 0

  def ssh(self, argv: list[str]) -> int:
    if self.state["slice"] != "READY":
      print("ERROR: the TPU is PREEMPTED", file=sys.stderr)
      return 1
    import subprocess

    code = 0
    for worker, home in self.homes(argv).items():
      os.makedirs(home, exist_ok=True)
      result = subprocess.run(
        ["bash", "-c", option(argv, "command")],
        env=os.environ | {"HOME": home, "IMAGEN_WORKER": str(worker)},
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
      )
      if self.is_lost(result.stdout):
        import shutil

        shutil.rmtree(f"{FOLDER}/homes")
        self.state["slice"] = "PREEMPTED"
        return 1
      print(result.stdout, end="")
      code = code or result.returncode
    return code

  setup = start = report = stop = log = ssh

  def is_lost(self, report: str) -> bool:
    """Whether an attempt ended that the slice is to go with."""
    fields, plan = report.split(), self.state["plan"]
    if fields[:1] != ["imagen-worker"] or fields[2] != "ended":
      return False
    return plan[int(fields[3]) - 1 :][:1] == ["lost"]


def main(argv: list[str]) -> int:
  verb = verb_of(argv)
  with open(f"{FOLDER}/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    number = count_call(verb, argv)
    for name in (f"{verb}.{number}", f"{verb}.all"):
      if os.path.exists(f"{FOLDER}/answers/{name}"):
        fcntl.flock(lock, fcntl.LOCK_UN)
        return answer(f"{FOLDER}/answers/{name}")
    with open(f"{FOLDER}/state.json") as file:
      state = json.load(file)
    world = Homes(state) if state.get("homes") else Slice(state)
    code = getattr(world, verb.replace("-", "_"))(argv)
    # The launcher kills what it waits for: whole, or not at all.
    with open(f"{FOLDER}/state.json.new", "w") as file:
      json.dump(world.state, file)
    os.replace(f"{FOLDER}/state.json.new", f"{FOLDER}/state.json")
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
