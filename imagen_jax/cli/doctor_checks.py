"""The examination of `imagen doctor`: which checks there are, in which order.

The checks themselves are in `health/`. What is raised on the way is a finding,
too, and what rests on the same fault is passed over.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath

from imagen_jax import build
from imagen_jax.cli import doctor_patient
from imagen_jax.core import errors, images, memory, tree
from imagen_jax.data import image_pipeline, rejects
from imagen_jax.health import (
  checkpoint,
  data,
  findings,
  history,
  machine,
  overfit,
  params,
  samples,
  text,
  text_use,
)
from imagen_jax.train import loss_bands, record, step_folders

Found: TypeAlias = Iterator[findings.Finding]
Patient = doctor_patient.Patient

_BATCHES = 4  # of training, for rejects and captions that a store lacks
_DRAWN = 4  # prompts


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
    patient.abstract, host=memory.host_bytes(), device=memory.device_bytes()
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
    saved = record.read_run(patient.workdir)
    config = saved["config"] if saved else build.plain(patient.config)
    yield history.losses(row, _bands(patient), config)


def _bands(patient: Patient) -> loss_bands.Reference | None:
  """Those that were given, or that are shipped for this config and stage."""
  stage = patient.stage
  assets = pathlib.Path(__file__).parents[1] / "assets"
  name = f"loss_bands_{stage.name}_{stage.resolution}.json"
  shipped = assets / patient.options.config_name / name
  if patient.options.bands is None and not shipped.is_file():
    return None
  return loss_bands.read(patient.options.bands or shipped)


def _pictures(patient: Patient) -> Found:
  """Swaps prompts and draws, with the parameters of the checkpoint."""
  if not patient.has_params:
    return
  if patient.options.quick:
    yield findings.skipped("samples", "--quick was given")
    return
  batch, cond = patient.shown
  stage, settings = patient.stage, patient.settings
  x0 = jnp.asarray(batch["image"])
  changed = text_use.changes(
    stage, patient.ema, x0, cond, aug_level=settings.aug_level
  )
  is_base = stage.low_resolution is None
  yield text_use.judge(changed, patient.step, is_base=is_base)
  cond = jax.tree.map(lambda x: x[:_DRAWN], cond)
  raw = samples.draw(stage, patient.raw, cond, settings)
  ema = samples.draw(stage, patient.ema, cond, settings)
  yield samples.judge(raw, "raw")
  yield samples.judge(ema, "EMA")
  path = patient.options.sheet or patient.workdir / "samples" / "doctor.png"
  sheet = samples.sheet(raw, ema, batch["caption"][:_DRAWN])
  images.write_png(path, sheet)
  yield findings.ok("sheet", f"{path}, raw beside EMA, step {patient.step}")


def _overfitting(patient: Patient) -> Found:
  """Trains fresh parameters on a few images."""
  if patient.options.quick:
    yield findings.skipped("overfit", "--quick was given")
    return
  steps = patient.options.overfit_steps
  with tqdm.tqdm(total=steps, unit="step", desc="overfit", leave=False) as bar:

    def progress(step: int, loss: float) -> None:
      bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
      bar.update(step - bar.n)

    outcome = overfit.run(
      patient.stage,
      patient.quick_rule(steps),
      patient.few(patient.options.overfit_images),
      jax.random.key(patient.config.seed),
      steps=steps,
      progress=progress,
    )
  yield overfit.judge(outcome)


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
  "samples": _pictures,
  "overfit": _overfitting,
}
