"""Training speed of the paper's stages on the GPUs (or TPUs) of this machine.

  python benchmarks/gpu_train.py                        all four, on all GPUs
  python benchmarks/gpu_train.py --stage=base_2b --batch_size=16
  python benchmarks/gpu_train.py --tiny                 to see that it runs

One JSON line a stage: the step of `imagen train` (bfloat16, EMA, Adafactor or
Adam, fsdp over all devices of the machine) on random images and texts of 128
tokens. FLOPs are the model's, three forward passes. `mfu` is of the vendor's
peak, `of_matmul` of what a plain bfloat16 product of 8192 reaches in the same
run. A stage that does not fit is a line with its error, and the next goes on.
`--batch_size` is of one device; `--remat=blocks` where it does not fit.

Known of others, on A100-80G in bfloat16, images/s for each of 8 GPUs and
MFU of 312 TFLOP/s (NVIDIA's JAX Imagen, published): base 500M 107, 37 %; base
2B 27.4, 37 %; SR of 600M 84.3, 45 %; the second SR on crops of 256 84.8, 42 %.
This has not run on a GPU yet.
"""

import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from configs import base_64, demo, sr_256, sr_1024
from imagen_jax import build, build_step
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng, tree
from imagen_jax.train import flops, sharding

# (config, images a device): the published figures are of these batches.
STAGES = {
  "base_500m": (lambda: base_64.get_config("500m"), 64),
  "base_2b": (lambda: base_64.get_config("2b"), 16),
  "sr_256": (lambda: sr_256.get_config("600m"), 64),
  "sr_1024": (lambda: sr_1024.get_config("400m"), 64),
}
_STAGE = flags.DEFINE_multi_enum(
  "stage", list(STAGES), list(STAGES), "Which; may be repeated."
)
_BATCH = flags.DEFINE_integer("batch_size", 0, "Of one device; 0 is its own.")
_REMAT = flags.DEFINE_string(
  "remat", "", "none, blocks or full; its own by default."
)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed steps.")
_TINY = flags.DEFINE_bool("tiny", False, "The demo's base, a few steps.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"{argv[1]!r} is not a flag.")
  matmul = 0.0 if _TINY.value else matmul_flops()
  names = ["demo_base"] if _TINY.value else list(dict.fromkeys(_STAGE.value))
  for name in names:
    try:
      row = measure(name, matmul)
    except jax.errors.JaxRuntimeError as error:  # out of memory, say
      row = {"error": str(error).splitlines()[0][:300]}
    print(json.dumps({"stage": name} | row), flush=True)


def measure(name: str, matmul: float) -> dict:
  """Of one stage: compiles, warms up, times steps."""
  config, rows = _config(name)
  stage = build.stage(config.stage)
  program = build_step.make(config, stage, build.mesh(config))
  shardings = {
    leaf: x.sharding for leaf, x in tree.flatten(program.state.params).items()
  }
  params = stage_lib.init(
    stage,
    jax.random.key(0),
    lambda leaf, values: sharding.put_leaf(values, shardings[leaf]),
  )
  state = build_step.create(program, params)
  del params
  batch = sharding.share(_batch(config, stage), program.mesh)
  start = time.perf_counter()
  step = program.step.lower(state, batch, jax.random.key(1)).compile()
  compiled = time.perf_counter() - start
  seconds = []
  for i in range(2 + _repeats()):
    start = time.perf_counter()
    state, metrics = step(state, batch, rng.key_for(jax.random.key(1), "s", i))
    loss = float(metrics["loss"])
    seconds.append(time.perf_counter() - start)
  median = statistics.median(seconds[2:])
  model = flops.TRAINING * flops.forward_flops(
    stage, length=config.text.max_length, resolution=config.data.crop or None
  )
  device = jax.devices()[0]
  reached = model * rows / median
  peak = flops.peak_flops(device.device_kind)
  memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
  return {
    "device": f"{jax.device_count()} x {device.device_kind}",
    "parameters": tree.count(program.state.params),
    "batch_size": rows,
    "remat": stage.module.remat,
    "step_seconds": round(median, 4),
    "images_per_second": round(rows / median, 2),
    "tflops": round(reached / 1e12, 2),
    "mfu": peak and round(reached / peak, 3),
    "of_matmul": round(reached / matmul, 3) if matmul else None,
    "peak_gb": memory and round(memory / 1e9, 2),
    "compile_seconds": round(compiled, 1),
    "loss": round(loss, 4),
    "jax": jax.__version__,
  }


def _repeats() -> int:
  return 2 if _TINY.value else _REPEATS.value


def _config(name: str):
  """(config, images a device), on a mesh of all devices."""
  if _TINY.value:
    config, rows = demo.get_config("base"), 2
  else:
    make, rows = STAGES[name]
    config = make()
  rows = _BATCH.value or rows
  config.mesh.update({"data": 1, "fsdp": -1})
  config.train.batch_size = rows * jax.device_count()
  if _REMAT.value:
    config.stage.fields.remat = _REMAT.value
  return config, rows


def _batch(config, stage: stage_lib.Stage) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(0)
  n, length = config.train.batch_size, config.text.max_length
  side = config.data.crop or stage.resolution
  batch = {
    "image": draw.uniform(-1, 1, (n, side, side, 3)),
    "text_emb": draw.normal(size=(n, length, stage.text_width)),
  }
  if stage.low_resolution:
    low = side * stage.low_resolution // stage.resolution
    batch["x_lr"] = draw.uniform(-1, 1, (n, low, low, 3))
  batch = {leaf: x.astype(np.float32) for leaf, x in batch.items()}
  return batch | {"text_mask": np.ones((n, length), bool)}


def matmul_flops(side: int = 8192) -> float:
  """FLOP/s of a bfloat16 product of one device, the best of ten."""
  product: Callable = jax.jit(jnp.dot)
  a = jnp.ones((side, side), jnp.bfloat16)
  jax.block_until_ready(product(a, a))
  best = float("inf")
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready([product(a, a) for _ in range(4)])
    best = min(best, (time.perf_counter() - start) / 4)
  return 2.0 * side**3 / best


if __name__ == "__main__":
  app.run(main)
