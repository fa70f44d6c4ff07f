"""Checkpoints of the whole training state, by Orbax.

`workdir/checkpoints/STEP/`, written beside and renamed when complete, so that a
killed run leaves the previous one. What is restored must match in every name,
shape and dtype.
"""

import jax
import orbax.checkpoint as ocp
from etils import epath

from imagen_jax.core import errors, tree
from imagen_jax.train.state import TrainState

FOLDER = "checkpoints"


class Checkpoints:
  """Saves and restores the states of one workdir."""

  def __init__(self, workdir: epath.PathLike, *, keep: int = 3):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    folder = epath.Path(workdir).absolute() / FOLDER
    self._manager = ocp.CheckpointManager(
      folder, item_handlers=ocp.StandardCheckpointHandler(), options=options
    )
    self._folder = folder

  def latest_step(self) -> int | None:
    """The newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: TrainState, *, wait: bool = False) -> None:
    """Starts saving; an earlier save that failed raises here."""
    try:
      self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
      if wait:
        self._manager.wait_until_finished()
    except OSError as error:
      raise errors.CheckpointError(
        f"could not save step {step} in {self._folder}: {error}. Earlier"
        " checkpoints are as they were; free space and start again."
      ) from error

  def restore(
    self, abstract: TrainState, step: int | None = None
  ) -> TrainState:
    """The state at `step` (the newest by default), checked leaf by leaf."""
    step = self.latest_step() if step is None else step
    if step is None or step not in self._manager.all_steps():
      raise errors.BadInput(
        f"no checkpoint {'' if step is None else f'of step {step} '}in"
        f" {self._folder}; there are {sorted(self._manager.all_steps())}."
      )
    self._check(step, abstract)
    try:
      return self._manager.restore(
        step, args=ocp.args.StandardRestore(abstract)
      )
    except Exception as error:
      raise errors.CheckpointError(
        f"cannot restore step {step} from {self._folder}:"
        f" {str(error).splitlines()[0]}"
      ) from error

  def _check(self, step: int, abstract: TrainState) -> None:
    """Names every leaf whose name, shape or dtype is not what is asked."""
    metadata = self._manager.item_metadata(step)
    if metadata is None:
      return
    saved = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata.tree
    )
    wanted = ocp.utils.serialize_tree(abstract, keep_empty_nodes=True)
    if difference := tree.diff(saved, wanted):
      rows = difference.splitlines()
      raise errors.BadInput(
        f"the checkpoint of step {step} does not fit this config"
        f" ({len(rows)} leaves differ, saved | wanted): "
        + "; ".join(rows[:4])
        + ". Use its own config, or another workdir."
      )

  def close(self) -> None:
    """Waits for saves under way."""
    self._manager.wait_until_finished()
    self._manager.close()
