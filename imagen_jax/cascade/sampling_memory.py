"""Whether what is asked for can fit into memory, before anything is compiled.

Of one evaluation of a network the bytes that are live at once are counted in
its jaxpr, in the order of its equations. XLA fuses some of what is counted:
programs of our networks were compiled to 0.5 to 0.8 of it on a CPU. So what is
refused is twice over: half of the count, and what is held beside it, does not
fit. What is close to a limit is not found here but by the allocator.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.cascade import pipeline
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files
from imagen_jax.diffusion import sampler_settings

_FUSED = 0.5  # of what is counted, at least, is needed
# Numbers live at once for each pixel. Where so many fit, no network is counted,
# as tracing a large one costs seconds.
_PER_PIXEL = 10_000
_FLOAT = 4  # bytes of a number


def check(
  cascade: pipeline.Cascade,
  *,
  images: int,
  batch_size: int,
  host: int | None,
  device: int | None,
) -> None:
  """Raises BadInput where `images`, `batch_size` at a time, cannot fit.

  `host` and `device` are bytes of memory, None where that is not known; the
  device's is None as well where it is the host's.
  """
  held = images * image_bytes(cascade)
  if host is not None and held > host:
    raise errors.BadInput(
      f"{images} images need {files.size_text(held)} on the host, which has"
      f" {files.size_text(host)}; ask for {int(0.5 * images * host / held)} or"
      " less at a time."
    )
  limit = host if device is None else device
  if limit is None:
    return
  rows = pipeline.chunk_size(cascade, images, batch_size)
  rows //= 1 if cascade.layout is None else cascade.layout.parts
  each, stage = max(
    (
      (_row_bytes(stage, settings, cascade.encoder.max_length, rows, limit), i)
      for i, (stage, settings) in enumerate(
        zip(cascade.stages, cascade.settings, strict=True)
      )
    )
  )
  if rows * each <= limit:
    return
  fits = int(0.5 * limit / each)
  raise errors.BadInput(
    f"{rows} images at a time need about {files.size_text(rows * each)} in"
    f" stage {cascade.stages[stage].name!r}, where there are"
    f" {files.size_text(limit)}; "
    + (
      f"try --batch_size={fits}."
      if fits
      else "one alone does not fit: cut it over devices with --mesh, or take a"
      " smaller stage."
    )
  )


def image_bytes(cascade: pipeline.Cascade) -> int:
  """Of an image and its text on the host, while all stages are drawn."""
  text = cascade.encoder.max_length * cascade.encoder.width
  pixels = sum(3 * stage.resolution**2 for stage in cascade.stages)
  return _FLOAT * (text + pixels)


def _row_bytes(
  stage: stage_lib.Stage,
  settings: sampler_settings.SamplerSettings,
  length: int,
  rows: int,
  limit: int,
) -> float:
  """Of an image that is drawn, at least; 0 where that is little."""
  evaluated = 2 if sampler_settings.is_guided(settings) else 1
  if rows * evaluated * _FLOAT * _PER_PIXEL * stage.resolution**2 < limit:
    return 0.0
  return _FUSED * evaluated * evaluation_bytes(stage, length=length)


def evaluation_bytes(stage: stage_lib.Stage, *, length: int) -> int:
  """Live at once in one evaluation of one image, without parameters.

  `length` is that of the text. Nothing is compiled or allocated.
  """
  side, low = stage.resolution, stage.low_resolution
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  level = jax.ShapeDtypeStruct((1,), jnp.float32)
  cond = {
    "text_emb": jax.ShapeDtypeStruct(
      (1, length, stage.text_width), jnp.float32
    ),
    "text_mask": jax.ShapeDtypeStruct((1, length), jnp.bool_),
  }
  if low is not None:
    # As a discrete stage has it: enlarged already.
    size = side if stage.discrete else low
    cond["x_lr"] = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    cond["aug_level"] = level

  def run(params, image, level, cond):
    return stage_lib.denoise_fn(stage, params)(image, level, cond)

  params = stage_lib.param_shapes(stage)
  given = jax.make_jaxpr(run)(params, image, level, cond).jaxpr
  # What is made of parameters alone, as their casts, is no activation.
  fixed = set(given.invars[: len(jax.tree.leaves(params))])
  return live_bytes(given, fixed)


def live_bytes(jaxpr: Any, fixed: set | frozenset = frozenset()) -> int:
  """The most bytes that results of a jaxpr's equations take at once.

  Results of `fixed` variables alone are not counted.
  """
  last = {}
  for i, equation in enumerate(jaxpr.eqns):
    last |= {var: i for var in equation.invars if not _is_literal(var)}
  last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not _is_literal(v)}
  fixed, held, live, most = set(fixed), {}, 0, 0
  for i, equation in enumerate(jaxpr.eqns):
    read = [var for var in equation.invars if not _is_literal(var)]
    if read and fixed.issuperset(read):
      fixed |= set(equation.outvars)
      continue
    made = {var: _size(var.aval) for var in equation.outvars}
    within = max(map(live_bytes, _inner(equation.params)), default=0)
    most = max(most, live + max(sum(made.values()), within))
    held |= {var: size for var, size in made.items() if var in last}
    live = sum(held.values())
    for var in read:
      if last[var] == i:
        live -= held.pop(var, 0)
  return most


def _is_literal(var: Any) -> bool:
  return hasattr(var, "val")


def _size(aval: Any) -> int:
  shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
  return math.prod(shape) * getattr(dtype, "itemsize", 0)


def _inner(params: dict[str, Any]) -> list[Any]:
  """The jaxprs among an equation's parameters."""
  leaves = jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr)
  return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if _is_jaxpr(leaf)]


def _is_jaxpr(value: Any) -> bool:
  return hasattr(getattr(value, "jaxpr", value), "eqns")
