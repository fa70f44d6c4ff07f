"""Parameters to start training from, instead of random ones.

  runs/base.safetensors       a stage file of `imagen export` or `imagen import`
  runs/base                   a workdir: its newest checkpoint, EMA or raw
  runs/base/checkpoints/4000  one of its checkpoints

Every parameter of the stage must be there with its shape, and no other; all
that differ are told in one error. Those that `fresh` names are drawn anew,
whatever the source has of them: a text projection for another encoder, say.

The state is then made of the result as of random parameters, so that the EMA,
too, starts there.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, tree
from imagen_jax.core.arrays import Key, Params
from imagen_jax.diffusion import schedules
from imagen_jax.nn import param_init
from imagen_jax.train import record, restore, step_folders, strict_restore
from imagen_jax.weights import native

_SHOWN = 40  # parameters in an error


class _Found(NamedTuple):
  """What a source holds."""

  params: Params  # on the host
  stage: dict  # `config.stage` of its training; {} if it does not say


def initial_params(
  stage: stage_lib.Stage,
  source: files.PathLike,
  *,
  key: Key,
  which: restore.Which = "ema",
  fresh: Sequence[str] = (),
  place: param_init.Place = param_init.on_device,
) -> Params:
  """The parameters of `source`, those that match `fresh` drawn from `key`.

  `fresh` are regexes of whole names, each of which must match one. `which` is
  for workdirs; a file holds one of both. `place` puts each on its devices.
  """
  found = _read(epath.Path(source), which)
  shapes = stage_lib.param_shapes(stage)
  wanted, given = tree.flatten(shapes), tree.flatten(found.params)
  anew = _matching(fresh, wanted.keys() | given.keys())
  loaded = {name: leaf for name, leaf in given.items() if name not in anew}
  _check(loaded, {n: s for n, s in wanted.items() if n not in anew}, source)
  _warn_of_changes(stage, found.stage, source)
  drawn = tree.flatten(stage_lib.init(stage, key)) if anew else {}
  new = sorted(anew & wanted.keys())
  logging.info(
    "%d parameters from %s, %d drawn anew%s", len(loaded), os.fspath(source),
    len(new), "".join(f"\n  {name} {wanted[name].shape}" for name in new),
  )  # fmt: skip
  # Copies: the first step donates them, and numpy would lend its own memory.
  return tree.map_named(
    lambda name, _: place(
      name, np.array(drawn[name] if name in anew else loaded[name])
    ),
    shapes,
  )


def find(source: files.PathLike) -> tuple[epath.Path, int | None]:
  """(file, None), or a workdir and a step of it; BadInput if it is neither."""
  path = epath.Path(source)
  if path.is_file():
    return path, None
  workdir, step = path, None
  if path.parent.name == step_folders.FOLDER and path.name.isdecimal():
    workdir, step = path.parent.parent, int(path.name)
  folder = workdir / step_folders.FOLDER
  steps = step_folders.steps_in(folder)
  if not steps or step not in (None, *steps):
    raise errors.BadInput(
      f"{os.fspath(path)!r} is nothing to start from: neither a stage file of"
      f" `imagen export`, nor a workdir or checkpoint; steps there are"
      f" {steps or 'none'}."
    )
  if step is None:
    sealed = [n for n in steps if step_folders.is_sealed(folder, n)]
    step = (sealed or steps)[-1]
  return workdir, step


def _read(path: epath.Path, which: restore.Which) -> _Found:
  workdir, step = find(path)
  if step is None:
    params, metadata = native.load_params(path)
    return _Found(params, _said(path, metadata))
  folder = workdir / step_folders.FOLDER
  shapes = _saved(folder / str(step), which)
  params = restore.restore_params(workdir, shapes, which=which, step=step)
  config = (record.read_run(workdir) or {}).get("config") or {}
  return _Found(params.params, config.get("stage", {}))


def _said(path: epath.Path, metadata: dict[str, str]) -> dict:
  """What a file says of its stage."""
  try:
    said = files.parse_json(metadata.get("stage", "{}"))
    if isinstance(said, dict):
      return said
    raise ValueError("it is no group")
  except ValueError as error:
    raise errors.CheckpointError(
      f"{os.fspath(path)} does not describe its stage ({error}); export it"
      " again."
    ) from error


def _saved(path: epath.Path, which: restore.Which) -> Params:
  """The shapes of what a checkpoint has, to compare it as a whole."""
  with strict_restore.checkpointer() as reader:
    try:
      item = reader.metadata(path).item_metadata[strict_restore.ITEM]
    except Exception as error:
      raise strict_restore.unreadable(path, error) from error
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    item.tree["ema_params" if which == "ema" else "params"],
  )


def _matching(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
  """The names that one of the patterns matches, each at least one."""
  found = {
    pattern: {name for name in names if re.fullmatch(pattern, name)}
    for pattern in patterns
  }
  if unused := [pattern for pattern, matched in found.items() if not matched]:
    raise errors.BadInput(
      f"fresh {', '.join(map(repr, unused))} matches no parameter; a pattern"
      " matches whole names, as in 'conditioning/text_projection/.*'."
    )
  return set().union(*found.values())


def _check(loaded: Params, wanted: Params, source: files.PathLike) -> None:
  if difference := tree.diff(loaded, wanted):
    rows = difference.splitlines()
    if len(rows) > _SHOWN:  # another network altogether
      rows[_SHOWN:] = [f"and {len(rows) - _SHOWN} more"]
    listed = "\n  ".join(rows)
    raise errors.BadInput(
      f"{os.fspath(source)} does not fit this stage; use its own config.stage,"
      " or name in `fresh` what is to be drawn anew. Parameters that differ,"
      f" source | wanted:\n  {listed}"
    )


def _warn_of_changes(
  stage: stage_lib.Stage, said: dict, source: files.PathLike
) -> None:
  """The same shapes may mean something else; rarely is that wanted."""
  now = {"prediction": stage.prediction, "residual": stage.residual}
  changes = [
    f"{name} was {said[name]!r} and is now {value!r}"
    for name, value in now.items()
    if said.get(name, value) != value
  ]
  name = said.get("schedule")
  if isinstance(name, str) and schedules.by_name(name) != stage.schedule:
    changes.append(f"schedule was {name!r} and is now another")
  if changes:
    logging.warning("%s: %s", os.fspath(source), "; ".join(changes))
