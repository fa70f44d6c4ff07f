"""Sampling beside imagen-pytorch and diffusers' IF pipeline, on one CPU core.

  python -m venv peers
  peers/bin/pip install torch diffusers transformers imagen-pytorch==2.1.0
  python benchmarks/sampling_peers.py --peers_python=peers/bin/python

Three processes on one core, in turn: a sampling run of each, then the next
round, so that what else the machine does falls on all alike. Each is 4 steps
of its own ancestral (DDPM) sampler with guidance 5 and dynamic thresholding, 2
images of 64x64, text [2 32 384]; width 64 x (1, 2, 3, 4), three blocks a level,
attention at 32, 16 and 8. Same widths are not the same network: see the GFLOP
of one evaluation. Weights are random.

Prints a line for each: CPU seconds of one evaluation of the network for one
image (a step has 2 x 2 of them), median and least of the rounds after the
first, what is not the network included; and a JSON object of it all.
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from imagen_jax import version
from imagen_jax.cascade import runner
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import tree
from imagen_jax.diffusion import sampling
from imagen_jax.models import base_unet, variants

_PEERS = flags.DEFINE_string(
  "peers_python", "", "A Python with the peers; without it ours alone."
)
_NAMES = flags.DEFINE_list(
  "peers", ["imagen-pytorch", "diffusers"], "Which; the first has no bfloat16."
)
_CORE = flags.DEFINE_integer("core", 1, "The core to run on.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "The first is not counted.")
_BATCH = flags.DEFINE_integer(
  "batch", 2, "Images; the network sees twice that."
)
_STEPS = flags.DEFINE_integer("steps", 4, "Of one sampling run.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of the computation."
)
_WORKER = flags.DEFINE_bool("worker", False, "For this program's own use.")

_TEXT_WIDTH, _TOKENS = 384, 32


def _stage() -> stage_lib.Stage:
  return stage_lib.Stage(
    "base",
    base_unet.BaseUNet(64, dtype=_DTYPE.value),
    resolution=64,
    text_width=_TEXT_WIDTH,
  )


def _params(stage: stage_lib.Stage) -> dict:
  draw = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      0.02 * draw.standard_normal(leaf.shape, dtype=np.float32)
    ),
    stage_lib.param_shapes(stage),
  )


def _gflop(stage: stage_lib.Stage, params: dict) -> float:
  """XLA's count of one evaluation, before fusion."""
  inputs = variants.example_inputs(stage.module, text_width=_TEXT_WIDTH)
  forward = jax.jit(lambda p, *args: stage.module.apply({"params": p}, *args))
  return forward.lower(params, *inputs).cost_analysis()["flops"] / 1e9


def _serve() -> None:
  """What a torch peer does, by the runner that `imagen sample` uses."""
  stage, b = _stage(), _BATCH.value
  params = _params(stage)
  settings = sampling.SamplerSettings(
    steps=_STEPS.value, sampler="ancestral", guidance_weight=5.0
  )
  draw = np.random.default_rng(1)
  text = draw.standard_normal((b, _TOKENS, _TEXT_WIDTH), dtype=np.float32)
  cond = {
    "text_emb": jnp.asarray(text),
    "text_mask": jnp.ones((b, _TOKENS), bool),
  }
  keys = jax.random.split(jax.random.key(0), b)
  sample = functools.partial(
    runner.draw, stage, settings, params, cond, keys,
    plans=runner.groups(stage, settings),
  )  # fmt: skip
  first = {
    "parameters": tree.count(params),
    "gflop": _gflop(stage, params),
    "versions": {
      "imagen_jax": version.VERSION,
      "jax": importlib.metadata.version("jax"),
    },
  }
  print(json.dumps(first), flush=True)
  for _ in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    sample()
    row = {
      "cpu_s": time.process_time() - cpu,
      "wall_s": time.perf_counter() - wall,
    }
    print(json.dumps(row), flush=True)


def _start(name: str) -> subprocess.Popen:
  here = pathlib.Path(__file__)
  sizes = [_CORE.value, _BATCH.value, _STEPS.value, _DTYPE.value]
  if name == "imagen_jax":
    names = ("core", "batch", "steps", "dtype")
    words = [f"--{k}={v}" for k, v in zip(names, sizes, strict=True)]
    command = [sys.executable, str(here), "--worker", *words]
  else:
    script = here.with_name("sampling_peers_torch.py")
    command = [_PEERS.value, str(script), name, *map(str, sizes)]
  environment = os.environ | {"OMP_NUM_THREADS": "1"}
  if name != "imagen_jax":
    environment.pop("PYTHONPATH", None)
  return subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    text=True, env=environment,
  )  # fmt: skip


def _answer(name: str, process: subprocess.Popen) -> dict:
  line = process.stdout.readline()
  if not line:
    raise app.UsageError(f"{name} ended; what it wrote is above.")
  return json.loads(line)


def _ask(name: str, process: subprocess.Popen) -> dict:
  process.stdin.write("\n")
  process.stdin.flush()
  return _answer(name, process)


def _report(about: dict, rows: dict[str, list[dict]]) -> dict:
  evaluations = 2 * _BATCH.value * _STEPS.value
  for name, fields in about.items():
    seconds = [row["cpu_s"] / evaluations for row in rows[name][1:]]
    fields["cpu_s"] = statistics.median(seconds)
    fields["cpu_s_min"] = min(seconds)
    fields["wall_s"] = statistics.median(
      row["wall_s"] / evaluations for row in rows[name][1:]
    )
    fields["gflop_per_cpu_s"] = fields["gflop"] / fields["cpu_s"]
    fields["first_run_cpu_s"] = rows[name][0]["cpu_s"]
  for name, fields in about.items():
    print(
      f"{name:>15}: {fields['cpu_s']:.4f} CPU-s an evaluation"
      f" (least {fields['cpu_s_min']:.4f}), {fields['gflop']:.1f} GFLOP,"
      f" {fields['gflop_per_cpu_s']:.1f} GFLOP/s,"
      f" {fields['parameters'] / 1e6:.1f}M parameters"
    )
  return about


def main(argv: list[str]) -> None:
  """Starts all, asks each in turn, prints the table."""
  del argv
  if _WORKER.value:
    os.sched_setaffinity(0, {_CORE.value})
    _serve()
    return
  names = ["imagen_jax"]
  if _PEERS.value:
    names += _NAMES.value
  processes = {name: _start(name) for name in names}
  try:
    about = {name: _answer(name, p) for name, p in processes.items()}
    rows: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(_ROUNDS.value):
      for name, process in processes.items():
        rows[name].append(_ask(name, process))
  finally:
    for process in processes.values():
      process.stdin.close()
      process.wait()
  report = {
    "dtype": _DTYPE.value,
    "machine": platform.machine(),
    "stages": _report(about, rows),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  app.run(main)
