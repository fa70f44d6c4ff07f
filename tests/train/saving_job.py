"""Runs that save and save, for tests in which they have to die.

  python -m tests.train.saving_job kills ROOT    killed at 20 random moments
  python -m tests.train.saving_job points ROOT   killed at each named point
  python -m tests.train.saving_job full ROOT     the disk is full at step 2
  python -m tests.train.saving_job pair ROOT PORT PROCESS   one of two

Children are forked before JAX has started anything, which saves its import.
"""

import collections
import os
import random
import resource
import signal
import sys
import time
import traceback

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imagen_jax.core import errors, faults
from imagen_jax.train import checkpoints, manifest, step_folders
from tests.train import states

POINTS = (
  "save.before_commit",
  "save.before_manifest",
  "manifest.before_rename",
  "save.after_manifest",
  "save.before_delete",
)


def save_until_killed(root, ready, most=1 << 30):
  """Restores, proves each byte, says so, and goes on; tells each commit."""
  saver = checkpoints.Checkpoints(root, keep=2)
  step = saver.latest_step() or 0
  if step:
    state = saver.restore(states.abstract(), on_fallback=_forbidden)
    assert states.equal(state, states.at(int(state.step))), "wrong bytes"
    assert int(state.step) == step, "an older step"
  os.write(ready, b"%d\n" % step)
  while step < most:
    step += 1
    saver.save(step, states.at(step))
    for committed in saver.check():
      os.write(ready, b"%d\n" % committed)
  saver.close()


def _forbidden(step, damage):
  raise AssertionError(f"{step} is damaged: {damage}")


def in_child(function, *arguments):
  """Forks; the child's exit code is 1 if the function raises."""
  if child := os.fork():
    return child
  code = 1
  try:
    function(*arguments)
    code = 0
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stderr.flush()
    os._exit(code)


def run_and_kill(root, delay):
  """One run of `root`, killed `delay` seconds after it began to save."""
  out, ready = os.pipe()
  child = in_child(save_until_killed, root, ready)
  os.close(ready)
  told = os.read(out, 1 << 16)
  time.sleep(delay)
  os.kill(child, signal.SIGKILL)
  while more := os.read(out, 1 << 16):
    told += more
  os.close(out)
  _, status = os.waitpid(child, 0)
  assert os.WIFSIGNALED(status), "it failed by itself"
  steps = [int(line) for line in told.split()]
  return steps[0], max(steps)


def kills(root):
  """Prints how many kills, and what was left behind by them."""
  draw, last, left = random.Random(3), 0, collections.Counter()
  for _ in range(20):
    began, committed = run_and_kill(root, draw.uniform(0, 0.7))
    assert began >= last, f"step {last} was committed, {began} is restored"
    last = committed
    folder = epath.Path(root) / "checkpoints"
    names = [path.name for path in folder.iterdir()]
    left["unfinished"] += any("orbax-checkpoint-tmp" in n for n in names)
    left["unsealed"] += any(
      not step_folders.is_sealed(folder, step)
      for step in step_folders.steps_in(folder)
    )
    left["being deleted"] += any(n.endswith(".deleted") for n in names)
  print(f"20 kills, {last} steps, left: {dict(left)}")


def points(root):
  """Killed at each point in turn, the second time it is passed."""
  for point in POINTS:
    where = os.path.join(root, point)
    ready = os.open(os.devnull, os.O_WRONLY)
    os.environ[faults.VARIABLE] = f"kill@{point}:2"
    _, status = os.waitpid(in_child(save_until_killed, where, ready), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    del os.environ[faults.VARIABLE]
    out, ready = os.pipe()
    _, status = os.waitpid(in_child(save_until_killed, where, ready, 6), 0)
    assert status == 0, point
    print(point, "restored", int(os.read(out, 1 << 16).split()[0]))


def full(root):
  """The disk is full at step 2; exits as the command line would."""
  saver = checkpoints.Checkpoints(root)
  saver.save(1, states.at(1), wait=True)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, resource.RLIM_INFINITY))
  noise = jax.random.normal(jax.random.key(0), (8, 20_000))
  state = states.at(2, 20_000)
  state.params["head"]["kernel"] = noise
  try:
    saver.save(2, state, wait=True)
  except errors.CheckpointError as error:
    print(saver.check(), error)
    sys.exit(error.exit_code)


def pair(root, port, process):
  """One of two processes that save, fall back, and restore as one."""
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
  devices = Mesh(np.array(jax.devices()), ("data",))

  def place(value):
    value = np.asarray(value)
    split = value.ndim and value.shape[0] % devices.size == 0
    spec = PartitionSpec("data") if split else PartitionSpec()
    return jax.make_array_from_callback(
      value.shape, NamedSharding(devices, spec), lambda index: value[index]
    )

  def global_state(step):
    return jax.tree.map(place, states.at(step))

  saver = checkpoints.Checkpoints(root, keep=2)
  folder = epath.Path(root) / "checkpoints"
  for step in (1, 2, 3):
    saver.save(step, global_state(step))
  saver.wait()
  assert saver.check() == [1, 2, 3]
  assert step_folders.steps_in(folder) == [2, 3]
  assert manifest.faults_of(folder, 3) == []
  checkpoints._meet("checked")
  if process == "0":
    (folder / "3" / "stray").write_bytes(b"")
  checkpoints._meet("damaged")
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    global_state(0),
  )
  heard = []
  state = saver.restore(
    abstract, on_fallback=lambda step, damage: heard.append(step)
  )
  mine = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), state)
  want = global_state(2)
  want = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), want)
  assert states.equal(mine, want) and heard == [3]
  saver.close()
  print(f"process {process} of {jax.process_count()} restored step 2")


if __name__ == "__main__":
  globals()[sys.argv[1]](*sys.argv[2:])
