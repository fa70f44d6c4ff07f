"""Speed and memory of the base U-Net on one CPU core.

  python benchmarks/unet_cpu.py --mode=train
  python benchmarks/unet_cpu.py --mode=sample

Width 64, three blocks a level, attention at 32/16/8; text [b 32 384] with
padding. train: eps loss, gradient and Adam on a batch of 4. sample: one guided
ancestral step with dynamic thresholding for 2 images: the network sees 4.

Prints one JSON object. FLOPs (2 a multiply-add) are XLA's count of the forward
pass; training counts as three of them. Time is the process's CPU seconds, the
median after 2 warm-ups: on a shared machine wall time says little. A 2048-wide
matrix product is timed after each step and says what the core gave meanwhile:
compare `of_matmul`, the ratio, where the machine is not quiet. The peak of
memory is the process's, compiling included; after compiling, what the compiler
freed is handed back to the system.
"""

import ctypes
import ctypes.util
import functools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jaxtyping import Array, Float

from imagen_jax.core import tree
from imagen_jax.core.arrays import Image, Params
from imagen_jax.diffusion import guidance, schedules, steps, thresholding
from imagen_jax.models import base_unet, variants

_MODE = flags.DEFINE_enum("mode", "train", ["train", "sample"], "What to time.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed steps.")
_CORE = flags.DEFINE_integer("core", 1, "The core to run on; -1 is any.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the computation.")
_ATTENTION = flags.DEFINE_enum(
  "attention", "exact", ["exact", "chunked"], "Backend."
)
_REMAT = flags.DEFINE_enum(
  "remat", "none", ["none", "blocks", "full"], "Recompute."
)

_TEXT_WIDTH = 384


class Case(NamedTuple):
  """A step to time: state = step(*state), on `images` network inputs."""

  step: Callable
  state: tuple
  images: int
  forwards: int  # forward passes that the step's FLOPs count as


def _inputs(batch: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  normal = functools.partial(rng.standard_normal, dtype=np.float32)
  lengths = rng.integers(5, 20, batch)
  return {
    "x0": normal((batch, 64, 64, 3)),
    "eps": normal((batch, 64, 64, 3)),
    "logsnr": normal((batch,)),
    "text_emb": normal((batch, 32, _TEXT_WIDTH)),
    "text_mask": np.arange(32)[None] < lengths[:, None],
  }


def _params(module: base_unet.BaseUNet) -> Params:
  """Small random numbers everywhere: zeros would be quicker to multiply."""
  inputs = variants.example_inputs(module, text_width=_TEXT_WIDTH)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      0.02 * rng.standard_normal(leaf.shape, dtype=np.float32)
    ),
    shapes,
  )


def _train_case(module: base_unet.BaseUNet) -> Case:
  optimizer = optax.adam(1e-4)
  batch = _inputs(4)

  def loss(params: Params, batch: dict[str, Array]) -> Float[Array, ""]:
    alpha, sigma = schedules.logsnr_to_alpha_sigma(batch["logsnr"])
    z_t = _scale(alpha, batch["x0"]) + _scale(sigma, batch["eps"])
    cond = batch["text_emb"], batch["text_mask"]
    eps_hat = module.apply({"params": params}, z_t, batch["logsnr"], *cond)
    return jnp.square(eps_hat - batch["eps"]).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params: Params, opt_state: tuple, batch: dict[str, Array]) -> tuple:
    gradient = jax.grad(loss)(params, batch)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, batch

  params = _params(module)
  return Case(step, (params, optimizer.init(params), batch), 4, forwards=3)


def _sample_case(module: base_unet.BaseUNet) -> Case:
  batch = _inputs(2)
  logsnr = jnp.full((2,), 1.0)
  cond = {name: batch[name] for name in ("text_emb", "text_mask")}

  @jax.jit
  def step(params: Params, z_t: Image, cond: dict[str, Array]) -> tuple:
    null = guidance.null_text(cond)
    both = {name: jnp.concatenate([cond[name], null[name]]) for name in cond}
    eps_hat = module.apply(
      {"params": params},
      jnp.concatenate([z_t, z_t]),
      jnp.concatenate([logsnr, logsnr]),
      both["text_emb"],
      both["text_mask"],
    )
    eps_hat = guidance.combine(eps_hat[:2], eps_hat[2:], 5.0)
    alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
    x0 = _scale(1 / alpha, z_t - _scale(sigma, eps_hat))
    x0 = thresholding.dynamic(x0)
    noise = jax.random.normal(jax.random.key(0), z_t.shape)
    z_s = steps.ancestral(z_t, x0, noise, logsnr, logsnr + 0.1)
    return params, z_s, cond

  return Case(step, (_params(module), batch["eps"], cond), 4, forwards=1)


def _scale(by: Float[Array, "b"], x: Image) -> Image:
  return by[:, None, None, None] * x


def _forward_flops(module: base_unet.BaseUNet, params: Params) -> float:
  """XLA's count for one image, before fusion: the arithmetic, not the code.

  Of a loop it counts one turn, so attention is not chunked here.
  """
  module = module.copy(attention_backend="exact")
  batch = _inputs(1)
  names = ("x0", "logsnr", "text_emb", "text_mask")
  forward = jax.jit(lambda p, *inputs: module.apply({"params": p}, *inputs))
  lowered = forward.lower(params, *(batch[name] for name in names))
  return lowered.cost_analysis()["flops"]


def _peak_gb() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _release_freed_memory() -> None:
  """glibc keeps what the compiler freed; this returns it to the system."""
  libc = ctypes.CDLL(ctypes.util.find_library("c"))
  if hasattr(libc, "malloc_trim"):
    libc.malloc_trim(0)


def _timed(function: Callable, *args: object) -> tuple[object, float]:
  """The result and the process's CPU seconds."""
  started = time.process_time()
  result = jax.block_until_ready(function(*args))
  return result, time.process_time() - started


def _measure(case: Case, repeats: int) -> dict[str, float]:
  started = time.process_time()
  compiled = case.step.lower(*case.state).compile()
  compile_s = time.process_time() - started
  compile_peak = _peak_gb()
  _release_freed_memory()
  square = jnp.asarray(_inputs(1)["x0"].reshape(-1)[:2048])
  square = square[:, None] * square[None]
  matmul = jax.jit(jnp.matmul)
  state, seconds, matmul_seconds = case.state, [], []
  for _ in range(2 + repeats):
    state, elapsed = _timed(compiled, *state)
    seconds.append(elapsed)
    matmul_seconds.append(_timed(matmul, square, square)[1])
  return {
    "cpu_s_median": statistics.median(seconds[2:]),
    "cpu_s_min": min(seconds[2:]),
    "matmul_gflop_per_cpu_s": 17.18 / statistics.median(matmul_seconds[2:]),
    "compile_s": compile_s,
    "compile_peak_rss_gb": compile_peak,
    "xla_temp_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9,
  }


def main(argv: list[str]) -> None:
  """Times one case and prints its JSON."""
  del argv
  if _CORE.value >= 0:
    os.sched_setaffinity(0, {_CORE.value})
  module = base_unet.BaseUNet(
    64,
    dtype=_DTYPE.value,
    remat=_REMAT.value,
    attention_backend=_ATTENTION.value,
  )
  make = _train_case if _MODE.value == "train" else _sample_case
  case = make(module)
  flops = _forward_flops(module, case.state[0])
  measured = _measure(case, _REPEATS.value)
  rate = flops * case.images * case.forwards / 1e9 / measured["cpu_s_median"]
  report = {
    "mode": _MODE.value,
    "dtype": _DTYPE.value,
    "parameters": tree.count(case.state[0]),
    "forward_gflop_per_image": flops / 1e9,
    "gflop_per_cpu_s": rate,
    "of_matmul": rate / measured["matmul_gflop_per_cpu_s"],
    "peak_rss_gb": _peak_gb(),
  }
  print(json.dumps(report | measured))


if __name__ == "__main__":
  app.run(main)
