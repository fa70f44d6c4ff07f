"""Is a run's newest checkpoint whole, and of this config?

Nothing is renamed, deleted or loaded here: a run may go on meanwhile.
"""

import jax
from etils import epath

from imagen_jax.core import errors, tree
from imagen_jax.health import findings
from imagen_jax.train import (
  manifest,
  migrations,
  record,
  step_folders,
  strict_restore,
)
from imagen_jax.train.state import TrainState

_SHOWN = 3  # of what differs


def damage(workdir: epath.Path, step: int) -> list[str]:
  """What of a step differs from its manifest; [] without a manifest."""
  folder = workdir / step_folders.FOLDER
  if not step_folders.is_sealed(folder, step):
    return []
  try:
    found = manifest.faults_of(folder, step)
  except OSError as error:
    found = [f"cannot be read: {error}"]
  # A run that goes on deletes old steps, maybe meanwhile.
  return found if step in step_folders.steps_in(folder) else []


def steps(
  workdir: epath.Path, damaged: dict[int, list[str]]
) -> list[findings.Finding]:
  """How far a run has come, and what of it is lost.

  `damaged` has what is wrong with each step that was looked at.
  """
  folder = workdir / step_folders.FOLDER
  found, aside = step_folders.steps_in(folder), step_folders.bad_in(folder)
  unseen = [step for step in found if step not in damaged]
  whole = [step for step in found if step in damaged and not damaged[step]]
  made = []
  if aside:
    made.append(
      findings.warning(
        "set aside",
        f"{', '.join(aside)} were found damaged before",
        "look at the disk; delete them when nothing in them is needed",
      )
    )
  for step, complaints in damaged.items():
    if complaints:
      made.append(_damaged(step, complaints, whole, unseen))
  if not found:
    made.append(_none(workdir, aside))
  elif whole == [0]:
    made.append(_untrained("the only checkpoint is of step 0"))
  elif whole:
    made.append(_progress(folder, whole, unseen))
  return made


def _damaged(
  step: int, complaints: list[str], whole: list[int], unseen: list[int]
) -> findings.Finding:
  more = len(complaints) - _SHOWN
  said = "; ".join(complaints[:_SHOWN])
  before = max((n for n in whole + unseen if n < step), default=None)
  goes_on = "no other one" if before is None else f"step {before}"
  if before in unseen:
    goes_on += " if that is whole, which was not verified"
  return findings.problem(
    "damage",
    f"step {step}: {said}" + (f", and {more} more" if more > 0 else ""),
    f"imagen train goes on from {goes_on}; copy the step again if there is a"
    " copy, and look at the disk",
    errors.CheckpointError,
  )


def _none(workdir: epath.Path, aside: list[str]) -> findings.Finding:
  if aside:
    return findings.problem(
      "steps",
      "no checkpoint is whole",
      "copy one back, or begin anew in another --workdir",
      errors.CheckpointError,
    )
  return _untrained(f"there is no checkpoint in {workdir}")


def _untrained(why: str) -> findings.Finding:
  return findings.warning(
    "steps",
    f"the stage has 0 steps trained: {why}",
    "train it (imagen train) before you sample, for it draws noise now; a run"
    " that has just begun first saves at step train.checkpoint_every",
  )


def _progress(
  folder: epath.Path, whole: list[int], unseen: list[int]
) -> findings.Finding:
  unsealed = [n for n in whole if not step_folders.is_sealed(folder, n)]
  said = f"{whole[-1]} trained"
  if verified := [n for n in whole if n not in unsealed]:
    said += f"; whole are {_listed(verified)}"
  if unseen:
    said += f"; not verified: {_listed(unseen)}"
  if not unsealed:
    return findings.ok("steps", said)
  return findings.warning(
    "steps",
    f"{said}; without a manifest, so not verified: {_listed(unsealed)}",
    "imagen train reads such a step in full, and seals it",
  )


def _listed(steps: list[int]) -> str:
  return ", ".join(map(str, steps))


def same_run(saved: dict, current: dict) -> findings.Finding:
  """Whether a run of this config may go on from what `saved` tells of."""
  was, now = (
    run["config"].get("stage", {}).get("name") for run in (saved, current)
  )
  if was != now:
    return findings.problem(
      "same run",
      f"the checkpoint is of a stage {was!r}, and the config of {now!r}",
      "give the --config that the run was started with, or another --workdir",
      errors.BadInput,
    )
  try:
    record.check_resume(saved, current, ())
  except errors.BadInput as error:
    return findings.of_error("same run", error)
  return findings.ok("same run", "config, data and text are the checkpoint's")


def leaves(
  workdir: epath.Path, step: int, abstract: TrainState
) -> findings.Finding:
  """Whether every leaf has the name, shape and dtype that the config gives."""
  path = workdir / step_folders.FOLDER / str(step)
  with strict_restore.checkpointer() as reader:
    about = step_folders.about(path.parent, step)
    schema = (about or strict_restore.about(reader, path)).get("schema", 0)
    try:
      found = reader.metadata(path).item_metadata[strict_restore.ITEM].tree
    except Exception as error:  # Orbax's own kinds, of files it cannot read
      return findings.of_error("leaves", strict_restore.unreadable(path, error))
  shapes = tree.flatten(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)
  )
  saved = jax.eval_shape(lambda x: migrations.migrate(x, schema), shapes)
  wanted = tree.flatten(abstract)
  rows = tree.diff(saved, wanted).splitlines()
  if not rows:
    return findings.ok("leaves", f"all {len(wanted)} of step {step} fit")
  more = len(rows) - _SHOWN
  return findings.problem(
    "leaves",
    f"{len(rows)} of step {step} do not fit (saved | wanted):"
    f" {'; '.join(rows[:_SHOWN])}" + (f"; and {more} more" * (more > 0)),
    "give the config that it was trained with, as run.json has it, or another"
    " --workdir",
    errors.BadInput,
  )
