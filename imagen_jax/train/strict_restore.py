"""A state read from a checkpoint, where every leaf must be what is asked for.

Orbax casts dtypes without a word; here a name, shape or dtype that differs is
an error that lists each. Older schemas are migrated on the way.
"""

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import PyTree

from imagen_jax.core import errors, tree
from imagen_jax.train import migrations
from imagen_jax.train.state import TrainState

ITEM = "default"  # Orbax's name for what a checkpoint of one item holds


def checkpointer() -> ocp.AsyncCheckpointer:
  """Of the layout STEP/default/."""
  handler = ocp.CompositeCheckpointHandler(
    **{ITEM: ocp.StandardCheckpointHandler()}
  )
  return ocp.AsyncCheckpointer(handler)


def about(reader: ocp.AsyncCheckpointer, path: epath.Path) -> dict:
  """What a save gave Orbax to keep with the state; {} of schema 0."""
  try:
    return dict(reader.metadata(path).custom_metadata or {})
  except Exception as error:
    raise unreadable(path, error) from error


def read(
  reader: ocp.AsyncCheckpointer,
  path: epath.Path,
  abstract: TrainState,
  *,
  schema: int,
  allow_dtype_cast: bool,
) -> TrainState:
  """The state in `path`, placed as `abstract` says.

  Raises BadInput if it is not of `abstract`, CheckpointError if it cannot be
  read. `allow_dtype_cast` is for floating leaves, each of which is logged.
  """
  try:
    saved = reader.metadata(path).item_metadata[ITEM].tree
  except Exception as error:
    raise unreadable(path, error) from error
  saved = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved
  )
  shapes = tree.flatten(saved)
  migrated = jax.eval_shape(lambda x: migrations.migrate(x, schema), shapes)
  _check(path, migrated, abstract, allow_dtype_cast)
  if migrated == shapes:
    return _load(reader, path, abstract)
  leaves = tree.flatten(_load(reader, path, saved))
  return _placed(migrations.migrate(leaves, schema), abstract)


def unreadable(path: epath.Path, error: Exception) -> errors.CheckpointError:
  """The first line of what Orbax says, and where."""
  reason = str(error).partition("\n")[0]
  return errors.CheckpointError(f"cannot read {path}: {reason}")


def _load(
  reader: ocp.AsyncCheckpointer, path: epath.Path, abstract: PyTree
) -> PyTree:
  placed = jax.tree.map(_with_place, abstract)
  args = ocp.args.Composite(**{ITEM: ocp.args.StandardRestore(placed)})
  try:
    return reader.restore(path, args=args)[ITEM]
  except Exception as error:
    raise unreadable(path, error) from error


def _with_place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """On the first device, if `leaf` names none: not where it was saved from."""
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(
    leaf.shape, leaf.dtype, sharding=leaf.sharding or here
  )


def _check(
  path: epath.Path,
  saved: migrations.Leaves,
  abstract: TrainState,
  allow_dtype_cast: bool,
) -> None:
  """Names every leaf whose name, shape or dtype is not what is asked."""
  wanted, saved = tree.flatten(abstract), dict(saved)
  for name in wanted.keys() & saved.keys() if allow_dtype_cast else ():
    have, want = saved[name].dtype, wanted[name].dtype
    if have != want and all(
      jnp.issubdtype(d, jnp.floating) for d in (have, want)
    ):
      logging.warning("%s: casting %s from %s to %s", path, name, have, want)
      saved[name] = jax.ShapeDtypeStruct(saved[name].shape, want)
  if difference := tree.diff(saved, wanted):
    rows = difference.splitlines()
    raise errors.BadInput(
      f"the checkpoint {path} does not fit this config ({len(rows)} leaves"
      f" differ, saved | wanted): {'; '.join(rows)}. Use its own config, or"
      " another workdir."
    )


def _placed(leaves: migrations.Leaves, abstract: TrainState) -> TrainState:
  """`leaves` in the tree, the dtypes and the places of `abstract`."""

  def place(name: str, want: jax.ShapeDtypeStruct) -> jax.Array:
    placed = _with_place(want)
    return jax.device_put(leaves[name].astype(want.dtype), placed.sharding)

  return tree.map_named(place, abstract)
