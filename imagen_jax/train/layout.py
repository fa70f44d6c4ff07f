"""Where sampling lies on a mesh: the same program, cut as in training.

  parameters  by the rules of `sharding`; gathered to be used, in the dtype that
              the network computes in
  images      [b h w c]: b over `data` and `fsdp`, h over `spatial`
  text, keys  [b ...]: b over `data` and `fsdp`

A `Layout` is the `runner.Layout` of a mesh. It holds no arrays and can be
hashed, so that it is a static argument of what is compiled.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import DTypeLike

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Cond, Image, Logsnr, Params
from imagen_jax.diffusion import losses
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import sharding


@dataclasses.dataclass(frozen=True)
class Layout:
  """Of sampling on `mesh`."""

  mesh: Mesh
  rules: sharding.Rules = sharding.RULES

  @property
  def parts(self) -> int:
    """How many parts a batch is cut into, which must divide it."""
    return mesh_lib.batch_parts(self.mesh)

  def put(self, rows: jax.Array | np.ndarray) -> jax.Array:
    """An array [b ...] of a host, on the devices; rows as in `images`."""
    if rows.ndim == 4:
      self._check_rows(rows.shape[1], "the images")
    return jax.device_put(rows, sharding.batch_sharding(self.mesh, rows.ndim))

  def put_params(self, params: Params) -> Params:
    """Parameters of a host, of which each device gets its part alone."""
    places = sharding.params_shardings(params, self.mesh, self.rules)
    return sharding.put(params, places)

  def encoder(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """Where a parameter of the text encoder lies, by `ENCODER_RULES`."""
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    (row,) = sharding.plan({name: leaf}, self.mesh, sharding.ENCODER_RULES)
    return NamedSharding(self.mesh, row.spec)

  def images(self, x: Image) -> Image:
    """Inside jit: images where they lie. Raises BadInput for odd heights."""
    self._check_rows(x.shape[1], "the images")
    place = sharding.batch_sharding(self.mesh, 4)
    return jax.lax.with_sharding_constraint(x, place)

  def denoise_fn(
    self, stage: stage_lib.Stage, params: Params
  ) -> losses.DenoiseFn:
    """Inside jit: `stage.denoise_fn` of parameters that are cut."""
    places = sharding.params_shardings(params, self.mesh, self.rules)

    def denoise(z_t: Image, logsnr: Logsnr, cond: Cond) -> Image:
      # In here, so that a loop of steps need not hold what is gathered.
      used = whole(params, tree.flatten(places), stage.module.dtype)
      if "x_lr" in cond:
        cond = cond | {"x_lr": self.images(cond["x_lr"])}
      network = stage_lib.denoise_fn(stage, used)
      return self.images(network(self.images(z_t), logsnr, cond))

    return denoise

  def check(self, stages: Sequence[stage_lib.Stage]) -> None:
    """Raises BadInput if the rows of an image cannot be cut evenly."""
    for stage in stages:
      self._check_rows(stage.low_resolution or 0, f"stage {stage.name!r}")
      self._check_rows(stage.resolution, f"stage {stage.name!r}")

  def _check_rows(self, side: int, what: str) -> None:
    parts = self.mesh.shape["spatial"]
    if side % parts:
      raise errors.BadInput(
        f"mesh spatial={parts} does not divide the {side} rows of {what}; use"
        f" a power of two up to {side & -side}."
      )

  def describe(self, params: Params) -> str:
    """The plan of a stage's parameters, and the mesh."""
    rows = sharding.plan(params, self.mesh, self.rules)
    return f"{mesh_lib.describe(self.mesh)}\n{sharding.table(rows)}"


def whole(
  params: Params, places: Mapping[str, NamedSharding], dtype: DTypeLike
) -> Params:
  """Parameters cast to what the network computes in, then gathered.

  So half the bytes travel. Layers would cast them all the same.
  """

  def use(name: str, leaf: jax.Array) -> jax.Array:
    leaf = leaf.astype(used_dtype(name, leaf, dtype))
    if "fsdp" not in places[name].spec:
      return leaf
    cut = jax.lax.with_sharding_constraint(leaf, places[name])
    return sharding.gather(cut, places[name])

  return tree.map_named(use, params)


def as_used(params: Params, dtype: DTypeLike) -> Params:
  """Parameters in what a network of `dtype` uses them in.

  Those of sampling are held so: the images are the same to the bit, and a
  bfloat16 network takes half of the memory. Takes arrays or shapes.
  """

  def cast(name: str, leaf: tree.Leaf) -> tree.Leaf:
    used = used_dtype(name, leaf, dtype)
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return leaf.update(dtype=used)
    return leaf.astype(used)

  return tree.map_named(cast, params)


def used_dtype(name: str, leaf: tree.Leaf, dtype: DTypeLike) -> jnp.dtype:
  """In which a network of `dtype` uses a parameter.

  The head computes in float32, and what has one dimension is small.
  """
  kept = leaf.ndim < 2 or name.startswith("head/")
  return jnp.dtype(leaf.dtype if kept else dtype)
