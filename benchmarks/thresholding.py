"""What dynamic thresholding costs at 1024x1024, and its share of a step.

  python benchmarks/thresholding.py               # a minute on one CPU core
  python benchmarks/thresholding.py --share       # and that of a step
  python benchmarks/thresholding.py --tpu         # compiled for a v5e: no sort

Times the percentile of |x0| by `jnp.percentile`, which sorts, and by ours, and
all of `thresholding.dynamic`. Figures are medians of the process's CPU seconds,
taken in turn, so that a loaded machine slows all.

--share counts the FLOPs of one evaluation of the paper's network of 1024
(sr1024_400m) and divides by the speed of a matrix product, which no network
exceeds: so the share of thresholding in a step is at most what it says.

--tpu needs pip install "imagen_jax[plan]" and no TPU. It prints, of each, the
sorts in the compiled program, bytes of HBM moved and of temporaries.

Prints one JSON object.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # Linux
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies
from jaxtyping import Array, Float

from imagen_jax.core.arrays import Image
from imagen_jax.diffusion import thresholding
from imagen_jax.models import variants
from imagen_jax.plan import traffic

_SIDE = flags.DEFINE_integer("side", 1024, "Pixels a side of x0.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each.")
_SHARE = flags.DEFINE_bool("share", False, "Its share of a step of SR-1024.")
_TPU = flags.DEFINE_bool("tpu", False, "Compile for a TPU as well.")

_PERCENTILE = 99.5


def _by_sorting(x0: Image) -> Float[Array, "b"]:
  return jnp.percentile(jnp.abs(x0), _PERCENTILE, axis=(1, 2, 3))


def _by_bisection(x0: Image) -> Float[Array, "b"]:
  return thresholding.magnitude_percentile(x0, _PERCENTILE)


_FUNCTIONS: dict[str, Callable[[Image], Array]] = {
  "jnp_percentile": _by_sorting,
  "our_percentile": _by_bisection,
  "dynamic": lambda x0: thresholding.dynamic(x0, _PERCENTILE),
}


def _seconds(calls: dict[str, Callable[[], Array]]) -> dict[str, float]:
  """Median CPU seconds of each call, taken in turn."""
  for call in calls.values():
    jax.block_until_ready(call())
  taken: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(_REPEATS.value):
    for name, call in calls.items():
      started = time.process_time()
      jax.block_until_ready(call())
      taken[name].append(time.process_time() - started)
  return {name: statistics.median(row) for name, row in taken.items()}


def _images(side: int) -> Image:
  return 1.2 * jax.random.normal(jax.random.key(0), (1, side, side, 3))


def _costs() -> dict[str, float]:
  x0 = _images(_SIDE.value)
  calls = {
    name: functools.partial(jax.jit(function), x0)
    for name, function in _FUNCTIONS.items()
  }
  row = _seconds(calls)
  return {f"{name}_cpu_s": value for name, value in row.items()} | {
    "times_cheaper": row["jnp_percentile"] / row["our_percentile"]
  }


def _share() -> dict[str, float]:
  side = _SIDE.value
  network = variants.make("sr1024_400m")
  inputs = (
    jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.float32),
    jax.ShapeDtypeStruct((1, 128, 4096), jnp.float32),
    jax.ShapeDtypeStruct((1, 128), bool),
    jax.ShapeDtypeStruct((1, side // 4, side // 4, 3), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.float32),
  )
  params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  flops = jax.jit(network.apply).lower(params, *inputs).cost_analysis()["flops"]
  square, x0 = jnp.ones((2048, 2048)), _images(side)
  row = _seconds(
    {
      "matmul": functools.partial(jax.jit(jnp.matmul), square, square),
      "dynamic": functools.partial(jax.jit(_FUNCTIONS["dynamic"]), x0),
    }
  )
  speed = 2 * 2048**3 / row["matmul"]
  return {
    "network_tflop": flops / 1e12,
    "matmul_gflop_per_s": speed / 1e9,
    "share_of_step_at_most": row["dynamic"] / (flops / speed),
  }


def _tpu() -> dict[str, dict[str, int]]:
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  (device, *_) = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x2"
  ).devices
  x0 = jax.ShapeDtypeStruct(
    (1, _SIDE.value, _SIDE.value, 3),
    jnp.float32,
    sharding=jax.sharding.SingleDeviceSharding(device),
  )
  rows = {}
  for name, function in _FUNCTIONS.items():
    compiled = jax.jit(function).lower(x0).compile()
    text = compiled.as_text()
    rows[name] = {
      "sorts": text.count(" sort("),
      "hbm_bytes": traffic.hbm_bytes(text),
      "bytes_accessed": int(compiled.cost_analysis()["bytes accessed"]),
      "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
  return rows


def main(argv: list[str]) -> None:
  """Times, compiles, and prints the JSON."""
  del argv
  result = {"side": _SIDE.value, "jax": jax.__version__} | _costs()
  if _SHARE.value:
    result |= _share()
  if _TPU.value:
    result["v5e"] = _tpu()
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  app.run(main)
