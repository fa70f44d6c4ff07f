"""Model FLOPs of a stage, and the share of the hardware's peak they make.

Counted from the jaxpr, so nothing is compiled or allocated: two for each
multiply-add of products and convolutions, and nothing for what is elementwise.

  product       2 * prod(output) * prod(contracted)
  convolution   2 * prod(output) * prod(kernel) / output channels

Training is three forward passes (XLA's own count of forward and backward is
2.99 to 3.00 of the forward for these networks). What is computed again to save
memory is not the model's, so MFU is not flattered by it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.cascade import stage as stage_lib

TRAINING = 3.0  # forward passes that a step is worth

# Dense bfloat16 FLOP/s of one JAX device by a part of its `device_kind`, the
# first that fits: vendors' figures. Float32 runs are compared with it as well.
_PEAKS = (
  ("TPU v6", 918e12),
  ("TPU v5 lite", 197e12),
  ("TPU v5e", 197e12),
  ("TPU v5", 459e12),
  ("TPU v4", 275e12),
  ("H100 PCIe", 756e12),
  ("H100 NVL", 835e12),
  ("H100", 989e12),
  ("H200", 989e12),
  ("A100", 312e12),
)


def peak_flops(device_kind: str) -> float | None:
  """FLOP/s of one device at best, or None where that is not known (a CPU)."""
  for part, peak in _PEAKS:
    if part in device_kind:
      return peak
  return None


@functools.lru_cache(maxsize=16)  # seconds, of a large network
def forward_flops(
  stage: stage_lib.Stage, *, length: int, resolution: int | None = None
) -> float:
  """FLOPs of one evaluation of the network on one image.

  `length` is that of the text; `resolution` that of a crop, if not the whole.
  """
  side = resolution or stage.resolution

  def run(params, image, level, cond):
    return stage_lib.denoise_fn(stage, params)(image, level, cond)

  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  level = jax.ShapeDtypeStruct((1,), jnp.float32)
  width = stage.text_width
  cond = {
    "text_emb": jax.ShapeDtypeStruct((1, length, width), jnp.float32),
    "text_mask": jax.ShapeDtypeStruct((1, length), jnp.bool_),
  }
  if stage.low_resolution is not None:
    low = stage.low_resolution * side // stage.resolution
    cond["x_lr"] = jax.ShapeDtypeStruct((1, low, low, 3), jnp.float32)
    cond["aug_level"] = level
  params = stage_lib.param_shapes(stage)
  return count(jax.make_jaxpr(run)(params, image, level, cond).jaxpr)


def rates(
  flops_per_image: float,
  images_per_s: float,
  *,
  devices: int,
  device_kind: str,
) -> dict[str, float]:
  """TFLOP/s of each of the devices, and MFU where their peak is known."""
  per_device = flops_per_image * images_per_s / devices
  peak = peak_flops(device_kind)
  row = {"tflops_per_device": per_device / 1e12}
  return row if peak is None else row | {"mfu": per_device / peak}


def count(jaxpr: Any) -> float:
  """FLOPs of the products and convolutions of a jaxpr and those within it."""
  return sum((_of(equation) for equation in jaxpr.eqns), 0.0)


def _of(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    channels = kernel[params["dimension_numbers"].rhs_spec[0]]
    out = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * out * math.prod(kernel) / channels
  within = [count(inner) for inner in _inner(params)]
  if name == "cond":
    return max(within)  # one branch runs
  return (params["length"] if name == "scan" else 1) * sum(within, 0.0)


def _inner(params: dict[str, Any]) -> list[Any]:
  """The jaxprs among an equation's parameters."""
  values = []
  for value in params.values():
    values += value if isinstance(value, list | tuple) else [value]
  open_ = [getattr(value, "jaxpr", value) for value in values]
  return [value for value in open_ if hasattr(value, "eqns")]
