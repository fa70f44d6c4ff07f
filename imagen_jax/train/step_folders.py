"""The folders of a run's checkpoints, and what becomes of them.

  4000/ and 4000.manifest.json      committed, and sealed
  4000/                             committed by a run that was killed then, or
                                    by a version without manifests
  4000.bad/                         damaged; never deleted, never read
  4000.deleted                      4000/ is being deleted; as good as gone
  4000.orbax-checkpoint-tmp-*/      unfinished

Of several processes, process 0 alone calls what renames or deletes.
"""

from collections.abc import Iterable

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from imagen_jax.core import errors, faults
from imagen_jax.train import manifest, record, retention

FOLDER = "checkpoints"
_TOMBSTONE = ".deleted"


def steps_in(folder: epath.Path) -> list[int]:
  """The committed steps, oldest first."""
  if not folder.exists():
    return []
  return sorted(
    step
    for step in ocp.utils.checkpoint_steps(folder)
    if not (folder / f"{step}{_TOMBSTONE}").exists()
  )


def is_sealed(folder: epath.Path, step: int) -> bool:
  """Whether the step has a manifest."""
  return manifest.path(folder, step).exists()


def about(folder: epath.Path, step: int) -> dict | None:
  """What a manifest says of its run; None without one that is whole."""
  if not is_sealed(folder, step):
    return None
  try:
    return manifest.read(folder, step).about
  except errors.CheckpointError:
    return None


def recorded(workdir: epath.Path) -> dict | None:
  """Config and fingerprints of what a run would go on from; None if nothing.

  Those of the newest manifest, or of run.json where there is none.
  """
  folder = workdir / FOLDER
  steps = steps_in(folder)
  for step in reversed(steps):
    if found := about(folder, step):
      return found
  return record.read_run(workdir) if steps else None


def set_aside(folder: epath.Path, step: int) -> None:
  """Renames STEP to STEP.bad, or .bad2; its manifest goes with it."""
  bad, n = folder / f"{step}.bad", 1
  while bad.exists():
    n += 1
    bad = folder / f"{step}.bad{n}"
  # The folder first: without its manifest it would be read unverified.
  (folder / str(step)).rename(bad)
  if is_sealed(folder, step):
    manifest.path(folder, step).rename(folder / f"{bad.name}.manifest.json")


def bad_in(folder: epath.Path) -> list[str]:
  """The folders that were set aside."""
  return sorted(p.name for p in folder.glob("*.bad*") if p.is_dir())


def retire(folder: epath.Path, policy: retention.Policy) -> None:
  """Deletes what need not be kept, now that the newest is sealed."""
  steps = steps_in(folder)
  scores = {}
  for step in steps:
    score = (about(folder, step) or {}).get("score")
    if score is not None:
      scores[step] = score
  for step in set(steps) - retention.kept(steps, policy, scores):
    tombstone = folder / f"{step}{_TOMBSTONE}"
    if is_sealed(folder, step):
      manifest.path(folder, step).replace(tombstone)
    else:
      tombstone.touch()
    faults.point("save.before_delete")
    _bury([tombstone])


def clean(folder: epath.Path) -> None:
  """Removes what a killed run left half-written or half-deleted."""
  for unfinished in ocp.utils.tmp_checkpoints(folder):
    unfinished.get().rmtree()
  for half in folder.glob(".*.manifest.json.tmp"):
    half.unlink()
  _bury(folder.glob(f"*{_TOMBSTONE}"))


def _bury(tombstones: Iterable[epath.Path]) -> None:
  """Deletes the folders, then the tombstones; what cannot go yet, stays."""
  for tombstone in tombstones:
    try:
      (tombstone.parent / tombstone.stem).rmtree(missing_ok=True)
      tombstone.unlink()
    except OSError as error:
      logging.warning("could not delete for %s: %s", tombstone, error)
