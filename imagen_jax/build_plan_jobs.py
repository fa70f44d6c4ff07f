"""The programs of a config on a slice, ready to be compiled.

What is compiled is what runs: `build_step.make` gives the training step to
`imagen train` and to this alike.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jaxtyping import PyTree

from imagen_jax import build, build_step
from imagen_jax.cascade import runner
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.diffusion import sampler_settings, sampling
from imagen_jax.plan import chips, estimate, hlo
from imagen_jax.train import flops, sharding
from imagen_jax.train import layout as layout_lib
from imagen_jax.train import mesh as mesh_lib

Name = Literal["train", "sample"]


class Job(NamedTuple):
  """A program that can be lowered, and its arguments as shapes."""

  lower: Callable[..., Any]
  arguments: tuple
  gathered: frozenset[hlo.Shape]  # of leaves that are gathered to be used
  facts: estimate.Facts


def make(
  config: ml_collections.ConfigDict,
  topology: str,
  *,
  program: Name = "train",
  sample_batch: int | None = None,
) -> Job:
  """One step of training, or of sampling `sample_batch` images.

  That is by default one image for each part that a batch is cut into.
  """
  where = chips.topology(topology)
  stage = build.stage(config.stage)
  step = build_step.make(config, stage, build.mesh(config, devices(where)))
  if program == "train":
    return _training(config, where, stage, step)
  rows = sample_batch or mesh_lib.batch_parts(step.mesh)
  sharding.check_batch(rows, 1, step.mesh)
  return _sampling(config, where, stage, step, rows)


def devices(where: chips.Topology) -> list[Any]:
  """Of the slice; of a GPU machine only their number matters."""
  if not where.is_tpu:
    return [jax.devices("cpu")[0]] * where.count
  # No TPU is looked for, and a TPU that another program holds is not needed.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    slice_ = topologies.get_topology_desc(
      platform="tpu",
      topology_name=where.name,
      # A v4 would come as its two cores, where JAX has one device a chip.
      **({"chip_config_name": "megacore"} if where.chip.name == "v4" else {}),
      # Hosts have four chips or eight, unless there is one alone.
      **({"chips_per_host_bounds": (1, 1, 1)} if where.count == 1 else {}),
    )
  except Exception as error:
    raise errors.BadInput(
      f"libtpu does not know the slice {where.name!r}: {error}; try"
      f" {where.chip.example}."
    ) from error
  return list(slice_.devices)


def _training(
  config: ml_collections.ConfigDict,
  where: chips.Topology,
  stage: stage_lib.Stage,
  step: build_step.Program,
) -> Job:
  batch = config.train.batch_size
  side = config.data.crop or stage.resolution
  cond = _cond(config, stage, step.mesh, batch, side)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = sharding.abstract(key, sharding.replicated(step.mesh))
  state = step.state
  held = {
    "params": state.params,
    "EMA": state.ema_params,
    "optimizer": (state.opt_state, state.guard, state.step),
    "batch": cond,
  }
  if step.base is not None:
    held["base of adapters"] = step.base
  found = _facts(config, where, stage, step.mesh, held)._replace(
    program="train",
    batch_size=batch,
    micro_batches=config.train.micro_batches,
    steps=config.train.steps,
    model_flops=flops.TRAINING * _forward(config, stage, side),
  )
  lower = functools.partial(step.step.lower, base=step.base)
  whole = gathered((state, step.base))
  return Job(lower, (state, cond, key), whole, found)


def _sampling(
  config: ml_collections.ConfigDict,
  where: chips.Topology,
  stage: stage_lib.Stage,
  step: build_step.Program,
  rows: int,
) -> Job:
  """One step of `runner.advance`, of parameters as `imagen sample` has them."""
  settings = build.sampler(config.sampler)
  mesh = step.mesh
  params = step.state.params if step.base is None else step.base
  params = layout_lib.as_used(params, stage.module.dtype)
  cond = _cond(config, stage, mesh, rows, stage.resolution)
  image, each = cond.pop("image"), sharding.batch_sharding(mesh, 1)
  if stage.low_resolution is not None:
    level = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=each)
    cond["aug_level"] = level
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
  keys = sharding.abstract(keys, each)
  held = {"params": params, "images, text": (image, image, image, cond)}
  guided = 2 if sampler_settings.is_guided(settings) else 1
  found = _facts(config, where, stage, mesh, held)._replace(
    program="sample",
    batch_size=rows,
    steps=settings.steps,
    model_flops=guided * _forward(config, stage, stage.resolution),
  )
  first = jax.tree.map(
    lambda numbers: numbers[:1], sampling.plan(settings, stage.schedule)
  )
  lower = functools.partial(runner.advance.lower, stage, settings)
  lower = functools.partial(lower, rows=first, layout=layout_lib.Layout(mesh))
  run = runner.Run(sampling.State(image, image, image), cond, keys)
  return Job(lower, (params, run), gathered(params), found)


def _cond(
  config: ml_collections.ConfigDict,
  stage: stage_lib.Stage,
  mesh: jax.sharding.Mesh,
  rows: int,
  side: int,
) -> dict[str, Any]:
  """A batch as shapes, with its images."""
  length = config.text.max_length
  shapes = {
    "image": ((rows, side, side, 3), jnp.float32),
    "text_emb": ((rows, length, stage.text_width), jnp.float32),
    "text_mask": ((rows, length), jnp.bool_),
  }
  if stage.low_resolution is not None:
    low = side * stage.low_resolution // stage.resolution
    shapes["x_lr"] = ((rows, low, low, 3), jnp.float32)
  return {
    name: jax.ShapeDtypeStruct(
      shape, dtype, sharding=sharding.batch_sharding(mesh, len(shape))
    )
    for name, (shape, dtype) in shapes.items()
  }


def _forward(
  config: ml_collections.ConfigDict, stage: stage_lib.Stage, side: int
) -> float:
  length = config.text.max_length
  return flops.forward_flops(stage, length=length, resolution=side)


def _facts(
  config: ml_collections.ConfigDict,
  where: chips.Topology,
  stage: stage_lib.Stage,
  mesh: jax.sharding.Mesh,
  held: dict[str, PyTree],
) -> estimate.Facts:
  return estimate.Facts(
    program="",
    topology=where.name,
    mesh=dict(mesh.shape),
    batch_size=0,
    remat=config.stage.fields.get("remat", "none"),
    micro_batches=1,
    steps=0,
    parameters=tree.count(stage_lib.param_shapes(stage)),
    held={kind: local_bytes(part) for kind, part in held.items()},
    model_flops=0.0,
  )


def local_bytes(part: PyTree) -> int:
  """Of one chip, without the padding of tiles."""
  leaves = jax.tree.leaves(part)
  return sum(
    tree.size_bytes(
      jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype)
    )
    for x in leaves
  )


def gathered(part: PyTree) -> frozenset[hlo.Shape]:
  """Shapes of leaves that are whole but for what `tensor` cuts."""
  shapes = set()
  for leaf in jax.tree.leaves(part):
    spec = [axis if axis == "tensor" else None for axis in leaf.sharding.spec]
    left = jax.sharding.NamedSharding(
      leaf.sharding.mesh, jax.sharding.PartitionSpec(*spec)
    )
    shapes.add(left.shard_shape(leaf.shape))
  return frozenset(shapes)
