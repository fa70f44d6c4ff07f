"""The examination of `imagen doctor`: which checks there are, in which order.

The checks themselves are in `health/`. What is raised on the way is a finding,
too, and what rests on the same fault is passed over.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import numpy as np
from etils import epath

from imagen_jax.cli import doctor_patient, doctor_trials
from imagen_jax.core import errors, tree
from imagen_jax.data import image_pipeline, rejects
from imagen_jax.health import (
  checkpoint,
  data,
  findings,
  history,
  machine,
  params,
  text,
)
from imagen_jax.train import loss_bands, step_folders

Found: TypeAlias = Iterator[findings.Finding]
Patient = doctor_patient.Patient

_BATCHES = 4  # of training, for rejects and captions that a store lacks


def examine(patient: Patient) -> Found:
  """All findings, as they are made."""
  told: set[str] = set()
  for name, section in SECTIONS.items():
    try:
      yield from section(patient)
    except errors.ImagenError as error:
      if str(error) in told:
        yield findings.skipped(name, "rests on a problem above")
      else:
        told.add(str(error))
        yield findings.of_error(name, error)


def _machine(patient: Patient) -> Found:
  yield machine.versions(machine.installed())
  platforms = [device.platform for device in jax.devices()]
  yield machine.devices(platforms, machine.nodes())


def _config(patient: Patient) -> Found:
  stage, _ = patient.stage, patient.settings
  count = tree.count(patient.abstract.params)
  yield findings.ok(
    "config",
    f"stage {stage.name}, {stage.resolution} pixels a side, {count:,}"
    f" parameters, predicts {stage.prediction}",
  )


def _room(patient: Patient) -> Found:
  train = patient.config.train
  yield machine.disk(
    patient.workdir or epath.Path(),
    patient.abstract,
    kept=train.keep + train.get("keep_best", 0),
  )
  yield machine.memory(
    patient.abstract, host=machine.host_bytes(), device=machine.device_bytes()
  )


def _data(patient: Patient) -> Found:
  yield data.pixels(patient.batch)
  yield data.contrast(patient.batch)
  yield text.captions(patient.batch["caption"])


def _sets(patient: Patient) -> Found:
  source = patient.source
  if not isinstance(source, image_pipeline.ImagePipeline):
    return  # the emoji set is shipped, and checked by its digest
  for path, opened in zip(
    patient.config.data.paths, source.sources, strict=True
  ):
    yield from data.files(opened, pathlib.Path(path).name)
  found: list[rejects.Reject] = []
  for step in range(_BATCHES):
    found += source.make_batch(step).rejects
  rows = _BATCHES * len(patient.batch["caption"])
  yield data.rejected(found, rows, source.budget)


def _text(patient: Patient) -> Found:
  yield text.embeddings(
    patient.batch["caption"],
    *map(np.asarray, patient.embedded),
    width=patient.stage.text_width,
  )


def _store(patient: Patient) -> Found:
  if not patient.config.data.store:
    return
  for step in range(_BATCHES):
    patient.text.embed(patient.source.batch_at(step)["caption"])
  yield findings.ok("store", f"it has the captions of {_BATCHES} batches")


def _checkpoint(patient: Patient) -> Found:
  if patient.workdir is None:
    yield findings.skipped("checkpoint", "no --workdir was given")
    return
  yield from checkpoint.steps(patient.workdir, patient.damaged)


def _same_run(patient: Patient) -> Found:
  if patient.workdir is None:
    return
  if saved := step_folders.recorded(patient.workdir):
    yield checkpoint.same_run(saved, patient.as_run())


def _params(patient: Patient) -> Found:
  if patient.leaves is not None:
    yield patient.leaves
  if not patient.has_params:
    return
  step = patient.step
  finite = [
    params.finite(leaves, which, step)
    for leaves, which in ((patient.raw, "raw"), (patient.ema, "EMA"))
  ]
  yield from finite
  if all(finding.level == "ok" for finding in finite):
    initial = patient.initial()
    yield from params.learned(patient.raw, patient.ema, initial, step)


def _history(patient: Patient) -> Found:
  if patient.workdir is None:
    return
  yield history.time(patient.workdir)
  if row := history.newest_row(patient.workdir):
    yield history.losses(row, _bands(patient))


def _bands(patient: Patient) -> loss_bands.Bands | None:
  """Those that were given, or that are shipped for this very stage."""
  stage = patient.stage
  assets = pathlib.Path(__file__).parents[1] / "assets"
  name = f"loss_bands_{stage.name}_{stage.resolution}.json"
  shipped = assets / patient.options.config_name / name
  if patient.options.bands is None and not shipped.is_file():
    return None
  return loss_bands.read(patient.options.bands or shipped)


SECTIONS: dict[str, Callable[[Patient], Found]] = {
  "machine": _machine,
  "config": _config,
  "room": _room,
  "data": _data,
  "sets": _sets,
  "text": _text,
  "store": _store,
  "checkpoint": _checkpoint,
  "same run": _same_run,
  "parameters": _params,
  "history": _history,
  "samples": doctor_trials.pictures,
  "overfit": doctor_trials.overfitting,
}
