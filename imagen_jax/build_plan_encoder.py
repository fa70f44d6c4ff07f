"""The text encoder of a config on a slice, ready to be compiled.

Its parameters lie on `config.mesh` by `sharding.ENCODER_RULES`, in the
precision of `config.text`; captions are split as a batch of images is. What is
cut over `fsdp` is gathered to be used: stacked layers one at a time, so that a
chip holds its part and one layer.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax import build, build_plan_jobs
from imagen_jax.core import tree
from imagen_jax.core.arrays import Params
from imagen_jax.plan import chips, estimate
from imagen_jax.text import encoders
from imagen_jax.train import flops, sharding

_STACK = "layers/"  # parameters [layers, ...] of a scan


def make(
  config: ml_collections.ConfigDict,
  topology: str,
  *,
  captions: int | None = None,
) -> build_plan_jobs.Job:
  """Encoding of `captions` at once, by default as many as train.batch_size."""
  where = chips.topology(topology)
  mesh = build.mesh(config, build_plan_jobs.devices(where))
  rows, length = captions or config.train.batch_size, config.text.max_length
  sharding.check_batch(rows, 1, mesh)
  module = encoders.network(
    config.text.encoder, precision=config.text.precision
  )
  params = shapes(module, config.text.precision)
  params = sharding.abstract(params, placed(params, mesh))
  ids, mask = (
    jax.ShapeDtypeStruct(
      (rows, length), dtype, sharding=sharding.batch_sharding(mesh, 2)
    )
    for dtype in (jnp.int32, jnp.bool_)
  )
  found = estimate.Facts(
    program="encode",
    topology=where.name,
    mesh=dict(mesh.shape),
    batch_size=rows,
    remat="none",
    micro_batches=1,
    steps=1,
    parameters=encoder_parameters(module),
    held={
      "params": build_plan_jobs.local_bytes(params),
      "captions": build_plan_jobs.local_bytes((ids, mask)),
    },
    model_flops=forward_flops(module, length),
  )
  stack = _stacked(params)
  gathered = build_plan_jobs.gathered((params, stack))
  lower = jax.jit(program(module, params)).lower
  return build_plan_jobs.Job(lower, (params, ids, mask), gathered, found)


def program(module: nn.Module, params: Params) -> Callable[..., jax.Array]:
  """(params, ids [b l], mask [b l]) -> text_emb [b l d], of cut parameters.

  `params` are shapes that say where each lies.
  """
  places = {name: leaf.sharding for name, leaf in tree.flatten(params).items()}

  def whole(name: str, leaf: jax.Array) -> jax.Array:
    if name.startswith(_STACK):
      return leaf
    return sharding.gather(leaf, places[name])

  def of_layer(layer: Params) -> Params:
    return tree.map_named(
      lambda name, leaf: sharding.gather(
        leaf, _of_layer(places[_STACK + name.removeprefix("params/")])
      ),
      layer,
    )

  if any(name.startswith(_STACK) for name in places):
    module = module.clone(use=of_layer)

  def encode(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return encoders.states(module, tree.map_named(whole, params), ids, mask)

  return encode


def placed(params: Params, mesh: jax.sharding.Mesh) -> Params:
  """A NamedSharding for each parameter of an encoder."""
  return sharding.params_shardings(params, mesh, sharding.ENCODER_RULES)


def shapes(module: nn.Module, precision: encoders.Precision) -> Params:
  """Of the parameters as `encoders.load` keeps them."""
  token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  params = jax.eval_shape(module.init, jax.random.key(0), token, mask)["params"]
  dtype = jnp.float32 if precision == "float32" else jnp.bfloat16

  def kept(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    of_int8 = name.endswith(("_int8", "_scale"))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if of_int8 else dtype)

  return tree.map_named(kept, params)


def encoder_parameters(module: nn.Module) -> int:
  """How many numbers it has; scales of int8 are none of its own."""
  plain = (
    module.clone(weights="float") if hasattr(module, "weights") else module
  )
  return tree.count(shapes(plain, "float32"))


def forward_flops(module: nn.Module, length: int) -> float:
  """FLOPs of one caption of `length` tokens."""
  params = shapes(module, "float32")
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)

  def run(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return encoders.states(module, params, ids, mask)

  return flops.count(jax.make_jaxpr(run)(params, ids, mask).jaxpr)


def _of_layer(place: NamedSharding) -> NamedSharding:
  return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))


def _stacked(params: Params) -> dict[str, jax.ShapeDtypeStruct]:
  """One layer of each stacked parameter."""
  return {
    name: jax.ShapeDtypeStruct(
      leaf.shape[1:], leaf.dtype, sharding=_of_layer(leaf.sharding)
    )
    for name, leaf in tree.flatten(params).items()
    if name.startswith(_STACK)
  }
