"""The checks of `imagen doctor` that run the network."""

from collections.abc import Iterator
from typing import TypeAlias

import jax
import jax.numpy as jnp
import tqdm

from imagen_jax.cli import doctor_patient
from imagen_jax.core import images
from imagen_jax.health import findings, overfit, samples, text_use

Found: TypeAlias = Iterator[findings.Finding]
Patient = doctor_patient.Patient

_DRAWN = 4  # prompts


def pictures(patient: Patient) -> Found:
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


def overfitting(patient: Patient) -> Found:
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
