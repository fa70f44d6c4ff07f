"""Speed of our convolution and of linen's on one CPU core, same run.

  python benchmarks/conv_cpu.py            # all shapes, a few minutes
  python benchmarks/conv_cpu.py --only=1x1

A line a shape: GFLOP/s of the forward pass, and of it with both gradients (two
FLOPs a multiply-add, three times as many with gradients), for flax.linen.Conv
and for ours, and the ratio. Figures are medians of CPU seconds, the two taken
in turn, so that a loaded machine slows both.
"""

import os
import time
from collections.abc import Callable

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # Linux
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from imagen_jax.nn import convolution

_ONLY = flags.DEFINE_string("only", "", "shapes whose name contains this")
_REPEATS = flags.DEFINE_integer("repeats", 9, "timings of each function")

_SHAPES = (
  # batch, pixels a side, channels in, channels out, kernel, stride
  (32, 32, 32, 32, 3, 1),  # the demo's base
  (32, 32, 64, 32, 3, 1),
  (32, 16, 64, 64, 3, 1),
  (32, 8, 96, 96, 3, 1),
  (32, 4, 128, 128, 3, 1),
  (4, 64, 64, 64, 3, 1),  # width 64
  (4, 32, 128, 128, 3, 1),
  (4, 16, 192, 192, 3, 1),
  (4, 8, 256, 256, 3, 1),
  (16, 64, 32, 64, 3, 2),  # super-resolution
  (1, 256, 32, 32, 3, 1),
  (32, 32, 3, 32, 3, 1),  # stem and head
  (32, 32, 32, 3, 3, 1),
  (32, 32, 64, 32, 1, 1),  # shortcuts
  (32, 16, 128, 64, 1, 1),
  (4, 32, 256, 128, 1, 1),
  (4, 8, 512, 256, 1, 1),
)


def _seconds(functions: list[Callable], *args: jax.Array) -> np.ndarray:
  """Median CPU seconds of each function, timed in turn."""
  for function in functions:
    jax.block_until_ready(function(*args))
  rows = []
  for _ in range(_REPEATS.value):
    row = []
    for function in functions:
      start = time.process_time()
      jax.block_until_ready(function(*args))
      row.append(time.process_time() - start)
    rows.append(row)
  return np.median(rows, axis=0)


def _rates(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """GFLOP/s of (linen, ours): forward, and forward with both gradients."""
  batch, side, channels_in, channels_out, size, stride = shape
  options = {"kernel_size": (size, size), "strides": (stride, stride)}
  modules = [
    module(channels_out, use_bias=False, **options)
    for module in (nn.Conv, convolution.Conv)
  ]
  x_key, dy_key, kernel_key = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(x_key, (batch, side, side, channels_in))
  params = jax.jit(modules[0].init)(kernel_key, x)

  def with_gradients(module: nn.Module) -> Callable:
    def run(params, x, dy):
      y, pull = jax.vjp(module.apply, params, x)
      return y, pull(dy)

    return jax.jit(run)

  forward = [jax.jit(module.apply) for module in modules]
  y = forward[0](params, x)
  dy = jax.random.normal(dy_key, y.shape)
  gflop = 2e-9 * size**2 * channels_in * y.size
  both = [with_gradients(module) for module in modules]
  return (
    gflop / _seconds(forward, params, x),
    3 * gflop / _seconds(both, params, x, dy),
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {argv[1:]}")
  print(f"{'':32}{'forward':>21}{'with gradients':>24}")
  print(f"{'':32}" + 2 * f"{'linen':>8}{'ours':>8}{'ratio':>7}")
  for shape in _SHAPES:
    batch, side, channels_in, channels_out, size, stride = shape
    name = f"{batch}x{side}px {channels_in}->{channels_out} {size}x{size}" + (
      f" stride {stride}" if stride > 1 else ""
    )
    if _ONLY.value not in name:
      continue
    cells = "".join(
      f"{linen:8.1f}{ours:8.1f}{ours / linen:7.2f}"
      for linen, ours in _rates(shape)
    )
    print(f"{name:32}{cells}", flush=True)


if __name__ == "__main__":
  app.run(main)
