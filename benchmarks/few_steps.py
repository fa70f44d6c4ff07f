"""Few steps against many: seconds and feature distance of the cascade.

  python benchmarks/few_steps.py --out=few \\
    --arms=ancestral:256+ancestral:128,dpm_solver_pp:16+dpm_solver_pp:8,ddim:32
  python benchmarks/few_steps.py --out=few --weights=runs/fast --name=student \\
    --arms=ddim:8:guidance_weight=1:threshold=static

An arm is SAMPLER:STEPS[:SETTING=VALUE...] of the first stage, and after a plus
of the next one; other settings are those that the weights carry. An arm of the
first stage alone is measured on its images. All arms draw the same held-out
prompts of the emoji set, with the same keys. Those of one size are compared
with the slowest of them, or with --against: a ratio's interval is of prompts
and real images that both arms share.

Scores are those of `imagen evaluate sweep` (`evals/emoji_measure.py`). Seconds
are CPU seconds of the process an image, of one core, without compiling and
without the text; so a loaded machine says much the same.

OUT keeps images by arm (arms.npz), so that a line with more arms draws only
those, and results.jsonl. Prints a table.
"""

import json
import os
import pathlib
import time
from typing import NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from absl import app, flags
from jaxtyping import Float

from imagen_jax import api
from imagen_jax.cascade import runner
from imagen_jax.cli import emoji_sweep, stage_settings
from imagen_jax.core import errors, files
from imagen_jax.diffusion import sampling
from imagen_jax.evals import emoji_measure, gaussian_distance, stage_draws

_ARMS = flags.DEFINE_list("arms", [], "SAMPLER:STEPS[:K=V...][+...], ...")
_WEIGHTS = flags.DEFINE_string("weights", None, "Default: the shipped demo.")
_NAME = flags.DEFINE_string("name", "demo", "Of the weights, in the table.")
_PROMPTS = flags.DEFINE_integer("prompts", 48, "Held-out pairs.")
_SEED = flags.DEFINE_integer("seed", 0, "Of pairs and of images.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Images at a time.")
_AGAINST = flags.DEFINE_string(
  "against", None, "NAME ARM that others of its size are compared with."
)
_OUT = flags.DEFINE_string("out", None, "Folder.", required=True)


class Drawn(NamedTuple):
  """Images of an arm's last stage, and what one took."""

  images: Float[np.ndarray, "n h w 3"]
  seconds: float


def main(argv: list[str]) -> None:
  if len(argv) > 1 or not _ARMS.value:
    raise app.UsageError("give --arms and --out, and nothing else.")
  out = files.check_writable(_OUT.value)
  asked = emoji_sweep.asked(_PROMPTS.value, _SEED.value)
  loaded = emoji_sweep.load(api.describe(_WEIGHTS.value), asked)
  for arm in _ARMS.value:
    _draw_arm(arm, loaded, pathlib.Path(out))
  _report(asked, pathlib.Path(out))


def _settings(
  text: str, own: sampling.SamplerSettings
) -> sampling.SamplerSettings:
  """`ddim:8:gamma=0` over a stage's own settings."""
  sampler, steps, *others = text.split(":")
  point = {"sampler": sampler, "steps": int(steps)}
  for setting in others:
    name, _, value = setting.partition("=")
    (point[name],) = stage_settings.parse_list(name, value)
  return stage_draws.changed(own, point)


def _draw_arm(arm: str, loaded: emoji_sweep.Loaded, out: pathlib.Path) -> Drawn:
  """The arm's images, of a file if it is there; those before it likewise."""
  path = out / f"{_NAME.value} {arm.replace('/', '_')}.npz"
  if path.exists():
    kept = np.load(path)
    return Drawn(kept["images"], float(kept["seconds"]))
  before, _, last = arm.rpartition("+")
  what, spent, index = loaded.what, 0.0, arm.count("+")
  if before:
    smaller = _draw_arm(before, loaded, out)
    what, spent = what._replace(x_lr=smaller.images), smaller.seconds
  stage = loaded.stages[index]
  settings = _settings(last, loaded.settings[index])
  params = loaded.params[stage.name]
  few = settings
  if settings.spacing == "uniform":  # compiles; as many steps a call
    few = stage_draws.changed(
      settings, {"steps": runner.steps_a_call(settings.steps)}
    )
  first = what._replace(
    **{
      name: None if rows is None else rows[: _BATCH.value]
      for name, rows in what._asdict().items()
    }
  )
  stage_draws.draw(stage, params, few, first, batch_size=_BATCH.value)
  start = time.process_time()
  x = stage_draws.draw(stage, params, settings, what, batch_size=_BATCH.value)
  filled = -(-len(x) // _BATCH.value) * _BATCH.value
  spent += (time.process_time() - start) / filled
  if not np.isfinite(x).all():
    raise errors.NonFinite(f"arm {arm} makes images that are not finite.")
  np.savez(path, images=x, seconds=spent)
  print(f"{path.stem}: {spent:.2f} CPU seconds an image", flush=True)
  return Drawn(x, spent)


def _report(asked: emoji_sweep.Asked, out: pathlib.Path) -> None:
  """results.jsonl and a table of all arms in OUT, the slowest first."""
  rows, measures, references, drawn = [], {}, {}, {}
  for path in out.glob("*.npz"):
    kept = np.load(path)
    drawn[path.stem] = Drawn(kept["images"], float(kept["seconds"]))
  slowest = sorted(drawn, key=lambda arm: -drawn[arm].seconds)
  for arm in sorted(slowest, key=lambda arm: arm != _AGAINST.value):
    x, seconds = drawn[arm]
    side = x.shape[1]
    if side not in measures:
      measures[side] = emoji_measure.make(
        asked.objects, asked.pairs, resolution=side, seed=asked.seed
      )
    measure = measures[side]
    features = measure.features(x)
    reference, slow = references.setdefault(side, (features, seconds))
    rows.append(
      {
        "arm": arm,
        "seconds": round(seconds, 3),
        "times_faster": round(slow / seconds, 2),
        "ratio": gaussian_distance.ratio(features, reference, measure.real),
        **measure(x, asked.captions),
      }
    )
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  files.atomic_write(out / "results.jsonl", lines.encode())
  for row in rows:
    scores = "  ".join(
      f"{name} {row[name][0]:.3f} [{row[name][1]:.3f}, {row[name][2]:.3f}]"
      for name in ("distance", "ratio", "object", "colour")
    )
    print(
      f"{row['arm']:<50} {row['seconds']:8.3f} s {row['times_faster']:6.1f}x "
      f" {scores}"
    )


if __name__ == "__main__":
  app.run(main)
