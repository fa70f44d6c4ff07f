"""A run of the smallest stage there is, here or in a process of its own.

  python -m tests.train.tiny_run '{"workdir": "/tmp/run", "steps": 8}'

The batch of a step is drawn row by row from (step, row), so that each of
several processes makes its own rows of it.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files
from imagen_jax.train import loop, optimizers, processes, sharding
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


class Pointwise(nn.Module):
  """The smallest network of the stages' signature: compiles in no time."""

  width: int = 4
  dtype: np.dtype = np.dtype("float32")

  @nn.compact
  def __call__(
    self,
    z_t,
    logsnr,
    text_emb,
    text_mask,
    x_lr=None,
    aug_level=None,
    train=False,
  ):
    pooled = nn.Dense(3, name="text")(text_emb.mean(axis=1))[:, None, None]
    if x_lr is not None:
      level = aug_level[:, None, None, None]
      pooled += x_lr.mean(axis=(1, 2), keepdims=True) * level
    h = nn.swish(nn.Dense(self.width, name="hidden")(z_t + pooled))
    return nn.Dense(3, name="head")(h) + logsnr[:, None, None, None]


STAGE = stage_lib.Stage(
  name="base", module=Pointwise(), resolution=16, text_width=8
)
RULE = optimizers.make("adam", lambda _: 1e-2)
SR = dataclasses.replace(STAGE, name="sr", low_resolution=8)
BATCH = 4


@dataclasses.dataclass(frozen=True)
class Noise:
  """Random batches; `disturb(step, batch)` is what becomes of one."""

  disturb: Callable = lambda step, batch: batch
  first: int = 0
  count: int = BATCH
  fingerprint: str = "noise"

  def batches(self, start):
    for step in itertools.count(start):
      draws = [
        np.random.default_rng([step, row])
        for row in range(self.first, self.first + self.count)
      ]
      shape = (16, 16, 3)
      batch = {
        "key": [f"{step}:{self.first + row}" for row in range(self.count)],
        "image": np.stack([d.uniform(-1, 1, shape) for d in draws]),
        "text_emb": np.stack([d.normal(size=(4, 8)) for d in draws]),
      }
      batch = {
        name: value.astype(np.float32) if name != "key" else value
        for name, value in batch.items()
      }
      batch["text_mask"] = np.ones((len(draws), 4), bool)
      yield self.disturb(step, batch)


def prepare(batch):
  return {name: value for name, value in batch.items() if name != "key"}


def train(workdir, steps, *, source=None, stage=STAGE, mesh=None, **given):
  """A run in this process; `given` goes to Options, or to the loop."""
  loop_fields = ("evaluators", "profiler")
  loop_given = {n: given.pop(n) for n in loop_fields if n in given}
  step = given.pop("train_step", None) or _train_step(stage)
  options = {"log_every": 1, "checkpoint_every": 2} | given
  mesh = mesh or one_device()
  shapes = stage_lib.param_shapes(stage)
  abstract = state_lib.abstract(shapes, RULE)
  shardings = sharding.state_shardings(abstract, shapes, mesh)

  def make_state():
    params = stage_lib.init(stage, jax.random.key(1))
    return sharding.put(state_lib.create(params, RULE), shardings)

  return loop.train(
    **loop_given,
    train_step=jax.jit(step, donate_argnums=0),
    make_state=make_state,
    abstract_state=sharding.abstract(abstract, shardings),
    source=source or Noise(),
    prepare=lambda batch: sharding.share(prepare(batch), mesh),
    key=jax.random.key(2),
    workdir=epath.Path(workdir),
    options=loop.Options(steps=steps, batch_size=BATCH, **options),
  )


def one_device():
  """A mesh of the first device."""
  return mesh_lib.make(devices=jax.devices()[:1])


@functools.cache
def _train_step(stage: stage_lib.Stage) -> step_lib.TrainStep:
  """The same function for all runs here, so that JAX compiles it once."""
  return step_lib.make_train_step(stage, RULE, ema_decay=0.9)


def digest(state) -> str:
  """SHA-256 of every leaf."""
  sha = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    sha.update(np.asarray(leaf).tobytes())
  return sha.hexdigest()


def rows(workdir) -> list[dict]:
  """What was logged."""
  return list(files.read_jsonl(workdir / "metrics.jsonl"))


@dataclasses.dataclass
class Look:
  """An evaluator."""

  every: int

  def __call__(self, state, step, workdir):
    return {"seen": float(step)}


def start(given: dict, **environment: str) -> subprocess.Popen:
  """A run in a process of its own, with one device."""
  given = given | {"workdir": str(given["workdir"])}
  pathlib.Path(given["workdir"]).mkdir(parents=True, exist_ok=True)
  return subprocess.Popen(
    [sys.executable, "-m", "tests.train.tiny_run", json.dumps(given)],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {"XLA_FLAGS": ""} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_rows(workdir: pathlib.Path, count: int = 1) -> None:
  """Until a run has logged so many rows, within a minute."""
  path, deadline = workdir / "metrics.jsonl", time.monotonic() + 60
  while not path.exists() or len(rows(workdir)) < count:
    assert time.monotonic() < deadline, f"no {count} rows in {workdir}"
    time.sleep(0.05)


def main(given: dict) -> None:
  """`join`: arguments of processes.join; `agree`: values to agree on.

  `poison`: the first batch of outliers, and the first after them.
  """
  processes.join(*given.pop("join", ()))
  processes.check_agreement(given.pop("agree", {}))
  workdir = epath.Path(given.pop("workdir"))
  pause = given.pop("pause", 0.0)
  poison = range(*given.pop("poison", (0, 0)))
  given["train_step"] = step_lib.make_train_step(
    STAGE,
    RULE,
    ema_decay=0.9,
    spike_deviations=given.pop("spike_deviations", 0.0),
  )

  def note(step, batch):
    time.sleep(pause)
    with open(workdir / f"keys_{jax.process_index()}.jsonl", "a") as file:
      file.write(json.dumps([step, batch["key"]]) + "\n")
    if step in poison:
      batch["image"] = 1e3 * batch["image"]
    return batch

  look = [Look(every)] if (every := given.pop("look_every", 0)) else []
  rows = processes.my_rows(BATCH)
  source = Noise(note, rows.start, rows.stop - rows.start)
  state = train(
    workdir, source=source, mesh=mesh_lib.make(), evaluators=look, **given
  )
  if jax.process_index() == 0:
    (workdir / "digest.txt").write_text(digest(state))


if __name__ == "__main__":
  try:
    main(json.loads(sys.argv[1]))
  except errors.ImagenError as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
