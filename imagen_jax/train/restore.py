"""The parameters of a checkpoint, without the rest: to export and to sample.

`ema_params` or `params` of `workdir/checkpoints/STEP/`; the optimizer's state
stays on disk. A run that trains in the same workdir is not disturbed.
"""

import os
from typing import Literal, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Params
from imagen_jax.train import checkpoints

Which = Literal["ema", "raw"]
_FIELDS = {"ema": "ema_params", "raw": "params"}
_ITEM = "default"  # Orbax's name for what a checkpoint of one item holds


class Restored(NamedTuple):
  """Parameters on the host, and the updates that made them."""

  params: Params
  step: int


def restore_params(
  workdir: epath.PathLike,
  shapes: Params,
  *,
  which: Which = "ema",
  step: int | None = None,
) -> Restored:
  """The parameters at `step` (the newest by default), checked by `shapes`."""
  folder = epath.Path(workdir).absolute() / checkpoints.FOLDER
  step = _step(folder, step)
  item = {_FIELDS[which]: shapes}
  arguments = ocp.args.PyTreeRestore(
    item=item,
    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
    partial_restore=True,
  )
  try:
    with ocp.PyTreeCheckpointer() as reader:
      params = reader.restore(folder / str(step) / _ITEM, args=arguments)
  except Exception as error:
    raise errors.CheckpointError(
      f"cannot read step {step} of {folder}: {str(error).splitlines()[0]}"
    ) from error
  params = params[_FIELDS[which]]
  _check(params, shapes, f"step {step} of {folder}")
  return Restored(params, step)


def _step(folder: epath.Path, step: int | None) -> int:
  found = []
  if folder.exists():
    found = sorted(ocp.utils.checkpoint_steps(folder))
  if step is None and found:
    return found[-1]
  if step not in found or step is None:
    raise errors.BadInput(
      f"no checkpoint{'' if step is None else f' of step {step}'} in"
      f" {os.fspath(folder)!r}; there are {found or 'none'}."
    )
  return step


def _check(params: Params, shapes: Params, where: str) -> None:
  """What a partial restore did not find it leaves as a shape."""
  found = {
    name: leaf
    for name, leaf in tree.flatten(params).items()
    if not isinstance(leaf, jax.ShapeDtypeStruct)
  }
  if difference := tree.diff(found, tree.flatten(shapes)):
    rows = difference.splitlines()
    raise errors.CheckpointError(
      f"{where} does not fit its config ({len(rows)} leaves differ, saved |"
      f" wanted): {'; '.join(rows[:3])}."
    )
