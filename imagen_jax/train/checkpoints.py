"""Checkpoints of the whole training state, by Orbax, each with a manifest.

A save copies the state to the host and goes on in the background: Orbax writes
`workdir/checkpoints/STEP/` beside and renames it; its manifest is written; then
older ones go as `retention` says. Only then is the step saved. A killed run
leaves what it had before, or the new step without a manifest: that one counts
if it can be read in full, and is sealed then.

A damaged one is renamed `STEP.bad`, never deleted, and the next older one is
restored. Of several processes, process 0 judges, renames and deletes.
"""

import concurrent.futures
import json
import shutil
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from imagen_jax.core import errors, faults, files, tree
from imagen_jax.train import (
  manifest,
  migrations,
  record,
  retention,
  step_folders,
  strict_restore,
)
from imagen_jax.train.state import TrainState

FOLDER = step_folders.FOLDER
_BARRIER_MS = 600_000


class Checkpoints:
  """Saves and restores the states of one workdir."""

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    keep: int = 3,
    keep_every: int = 0,
    keep_best: int = 0,
    higher_is_better: bool = False,
  ):
    self._workdir = files.absolute(workdir)
    self._folder = self._workdir / FOLDER
    self._policy = retention.Policy(
      keep, keep_every, keep_best, higher_is_better
    )
    self._orbax = strict_restore.checkpointer()
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._saving: tuple[int, concurrent.futures.Future] | None = None
    self._committed: list[int] = []
    self._saves = 0  # names the barriers
    if _is_first():
      self._folder.mkdir(parents=True, exist_ok=True)
      step_folders.clean(self._folder)
    _meet("opened")

  def latest_step(self) -> int | None:
    """The newest committed step, or None if there never was one.

    Raises CheckpointError if all there were have been found damaged, so that
    no run begins anew without being told to.
    """
    if steps := step_folders.steps_in(self._folder):
      return steps[-1]
    if bad := step_folders.bad_in(self._folder):
      raise errors.CheckpointError(
        f"no checkpoint in {self._folder} is whole; these were set aside:"
        f" {', '.join(bad)}. To begin anew give another workdir, or move them."
      )
    return None

  def save(
    self,
    step: int,
    state: TrainState,
    *,
    wait: bool = False,
    score: float | None = None,
  ) -> None:
    """Starts saving; an earlier save that failed raises here.

    A step is saved once: its state is a function of the step. `score` is what
    `keep_best` compares.
    """
    if self._saving is None or self._saving[0] != step:
      self.wait()
      if step not in step_folders.steps_in(self._folder):
        self._start(step, state, score)
    if wait:
      self.wait()

  def check(self) -> list[int]:
    """The steps committed since the last call; costs nothing between saves.

    A save that failed in the background raises here.
    """
    if self._saving is not None and self._saving[1].done():
      self.wait()
    committed, self._committed = self._committed, []
    return committed

  def wait(self) -> None:
    """Until the save under way is committed; raises if it failed."""
    if self._saving is None:
      return
    (step, future), self._saving = self._saving, None
    try:
      future.result()
    except Exception as error:
      raise self._failed(step, error) from error
    self._committed.append(step)

  def restore(
    self,
    abstract: TrainState,
    step: int | None = None,
    *,
    verify: bool = True,
    allow_dtype_cast: bool = False,
    on_fallback: Callable[[int, str], None] | None = None,
  ) -> TrainState:
    """The newest state that is whole, or that of `step`; each leaf checked.

    `on_fallback(step, damage)` hears of each that is set aside on the way.
    """
    self.wait()
    there = step_folders.steps_in(self._folder)
    _meet("listed")
    if not there or step not in (None, *there):
      raise errors.BadInput(
        f"no checkpoint {'' if step is None else f'of step {step} '}in"
        f" {self._folder}; there are {there or 'none'}."
      )
    refused = []
    for candidate in reversed(there) if step is None else [step]:
      state, damage = None, self._damage(candidate) if verify else ""
      if not damage:
        state, damage = self._read(candidate, abstract, allow_dtype_cast)
      if state is not None:
        return state
      refused.append(f"step {candidate}: {damage}")
      if step is None:
        self._set_aside(candidate, damage)
        if on_fallback is not None:
          on_fallback(candidate, damage)
    raise errors.CheckpointError(
      f"nothing in {self._folder} can be restored: {'. '.join(refused)}."
    )

  def close(self) -> None:
    """Waits for a save under way."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._orbax.close()

  def _start(self, step: int, state: TrainState, score: float | None) -> None:
    about = record.read_run(self._workdir) or {}
    about |= {
      "schema": migrations.SCHEMA,
      "score": score,
      "parameters": {
        "raw": tree.count(state.params),
        "ema": tree.count(state.ema_params),
      },
    }
    try:
      if _is_first():  # the manifest of a folder that was set aside half-way
        manifest.path(self._folder, step).unlink(missing_ok=True)
      self._orbax.save(
        self._folder / str(step),
        args=ocp.args.Composite(
          **{strict_restore.ITEM: ocp.args.StandardSave(state)}
        ),
        custom_metadata=json.loads(json.dumps(about, default=str)),
      )
    except Exception as error:
      raise self._failed(step, error) from error
    self._saves += 1
    self._saving = step, self._thread.submit(self._finish, step, self._saves)
    faults.point("save.before_commit")

  def _finish(self, step: int, number: int) -> None:
    """The rest of a save, in its own thread: commit, seal, delete."""
    self._orbax.wait_until_finished()
    faults.point("save.before_manifest")
    if _is_first():
      self._seal(step)
      faults.point("save.after_manifest")
      step_folders.retire(self._folder, self._policy)
    # Not XLA's barrier: the main thread may be in a collective of its own.
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=f"imagen_jax.sealed.{number}", timeout_ms=_BARRIER_MS)

  def _seal(self, step: int) -> None:
    manifest.write(self._folder, step, self._about(step))

  def _about(self, step: int) -> dict:
    """The schema and the run of a step; run.json knows of those of schema 0."""
    return (
      step_folders.about(self._folder, step)
      or strict_restore.about(self._orbax, self._folder / str(step))
      or (record.read_run(self._workdir) or {}) | {"schema": 0}
    )

  def _failed(self, step: int, error: Exception) -> errors.CheckpointError:
    others = set(step_folders.steps_in(self._folder)) - {step}
    reason = str(error).partition("\n")[0]
    return errors.CheckpointError(
      f"could not save step {step} in {self._folder}: {reason}. Earlier"
      f" checkpoints are as they were ({sorted(others) or 'none'}); free space"
      " and start again."
    )

  def _damage(self, step: int) -> str:
    """What differs from the manifest, if there is one, as process 0 sees it."""
    found = []
    if _is_first() and step_folders.is_sealed(self._folder, step):
      try:
        found = manifest.faults_of(self._folder, step)
      except OSError as error:  # no proof of damage: nothing is renamed
        path = self._folder / str(step)
        raise strict_restore.unreadable(path, error) from error
    if not ocp.multihost.broadcast_one_to_all(np.int32(len(found))):
      return ""
    return "; ".join(found[:3]) or "process 0 found it damaged"

  def _read(
    self, step: int, abstract: TrainState, allow_dtype_cast: bool
  ) -> tuple[TrainState | None, str]:
    """The state; or None and why, of a step that has no manifest to trust."""
    sealed = step_folders.is_sealed(self._folder, step)
    try:
      state = strict_restore.read(
        self._orbax,
        self._folder / str(step),
        abstract,
        schema=self._about(step).get("schema", 0),
        allow_dtype_cast=allow_dtype_cast,
      )
    except errors.CheckpointError as error:
      if sealed or jax.process_count() > 1:
        raise  # of files that are whole: the fault is elsewhere
      return None, str(error)
    if _is_first() and not sealed:
      logging.warning("step %d has no manifest and was read in full", step)
      try:
        self._seal(step)
      except OSError as error:
        raise self._failed(step, error) from error
    return state, ""

  def _set_aside(self, step: int, damage: str) -> None:
    logging.error("step %d is damaged and set aside: %s", step, damage)
    if _is_first():
      step_folders.set_aside(self._folder, step)
    _meet(f"aside.{step}")


def check_space(workdir: epath.Path, abstract: TrainState) -> None:
  """Raises BadInput unless two checkpoints fit on the disk of `workdir`."""
  if files.is_remote(workdir):
    return
  needed = 2 * tree.size_bytes(abstract)
  free = shutil.disk_usage(workdir).free
  if free < needed:
    raise errors.BadInput(
      f"{workdir} has {files.size_text(free)} free, and two checkpoints of this"
      f" run take {files.size_text(needed)}; free space, or give another"
      " --workdir."
    )


def _is_first() -> bool:
  return jax.process_index() == 0


def _meet(where: str) -> None:
  """All processes wait here for each other; one does not."""
  ocp.multihost.sync_global_processes(f"imagen_jax.checkpoints.{where}")
