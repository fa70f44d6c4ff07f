"""The parameters of a checkpoint, without the rest: to export and to sample.

`ema_params` or `params` of `workdir/checkpoints/STEP/`, verified by its
manifest; the optimizer's state stays on disk. A run that trains in the same
workdir is not disturbed: nothing is renamed, and a damaged step is an error.
"""

import os
from typing import Literal, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from imagen_jax.core import errors, files, tree
from imagen_jax.core.arrays import Params
from imagen_jax.train import manifest, step_folders, strict_restore

Which = Literal["ema", "raw"]
_FIELDS = {"ema": "ema_params", "raw": "params"}


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
  verify: bool = True,
) -> Restored:
  """The parameters at `step` (the newest by default), checked by `shapes`."""
  folder = files.absolute(workdir) / step_folders.FOLDER
  step = _step(folder, step)
  if verify:
    _verify(folder, step)
  item = {_FIELDS[which]: shapes}
  arguments = ocp.args.PyTreeRestore(
    item=item,
    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
    partial_restore=True,
  )
  try:
    with ocp.PyTreeCheckpointer() as reader:
      path = folder / str(step) / strict_restore.ITEM
      params = reader.restore(path, args=arguments)
  except Exception as error:
    raise errors.CheckpointError(
      f"cannot read step {step} of {folder}: {str(error).splitlines()[0]}"
    ) from error
  params = params[_FIELDS[which]]
  _check(params, shapes, f"step {step} of {folder}")
  return Restored(params, step)


def _step(folder: epath.Path, step: int | None) -> int:
  found = step_folders.steps_in(folder)
  if step is None and found:
    # The newest may have been committed this moment, and not be sealed yet.
    sealed = [n for n in found if step_folders.is_sealed(folder, n)]
    return (sealed or found)[-1]
  if step not in found or step is None:
    raise errors.BadInput(
      f"no checkpoint{'' if step is None else f' of step {step}'} in"
      f" {os.fspath(folder)!r}; there are {found or 'none'}."
    )
  return step


def _verify(folder: epath.Path, step: int) -> None:
  """Raises CheckpointError if files are not what the manifest says."""
  if not step_folders.is_sealed(folder, step):
    logging.warning("step %d of %s has no manifest to verify", step, folder)
    return
  try:
    found = manifest.faults_of(folder, step)
  except OSError as error:  # as of a step that a run has deleted since
    raise strict_restore.unreadable(folder / str(step), error) from error
  if found:
    others = [n for n in step_folders.steps_in(folder) if n != step]
    raise errors.CheckpointError(
      f"step {step} of {folder} is damaged: {'; '.join(found[:3])}. Other steps"
      f" are {others or 'none'}."
    )


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
