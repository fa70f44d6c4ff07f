"""What a run's own files say: losses by noise level, and where time went."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from imagen_jax.core import errors, files
from imagen_jax.health import findings
from imagen_jax.train import events, goodput, loss_bands, metrics, writers

_SHOWN = 3
_LONG = 600.0  # seconds, below which starting up is most of a run
_GOOD = 0.5  # productive share
_REMEDIES = {
  "compile": "set JAX_COMPILATION_CACHE_DIR to a folder that restarts keep",
  "data_wait": "raise data.threads, or store embeddings (imagen embed)",
  "save": "raise train.checkpoint_every, or use a faster disk",
  "evaluate": "raise preview.every, or lower sampler.steps",
  "restore": "use a faster disk for --workdir",
  "recomputed": "lower train.checkpoint_every",
  "down": "start again at once: launch the command in a loop on exit code 42",
  "other": "look at events.jsonl for what happened between the steps",
}


def newest_row(workdir: epath.Path) -> Mapping[str, Any] | None:
  """The last row of metrics that has a loss, rather of many steps than of one.

  The first row after a start, in which it compiled, is of one step.
  """
  path = workdir / writers.METRICS
  rows = list(files.read_jsonl(path)) if path.exists() else []
  rows = [row for row in rows if "loss" in row]
  of_many = [row for row in rows if not row.get("compile_s")]
  return (of_many or rows or [None])[-1]


def losses(
  row: Mapping[str, Any],
  reference: loss_bands.Reference | None,
  config: Mapping[str, Any],
) -> findings.Finding:
  """The losses of a row of metrics against those of healthy runs."""
  step, loss = row["step"], row["loss"]
  if loss is None:  # JSON has no NaN
    return findings.problem(
      "loss",
      f"that of step {step} is not finite",
      "bad_batch.json names the examples; lower optimizer.learning_rate",
      errors.NonFinite,
    )
  said = f"{loss:.4g} at step {step}"
  if reference is None:
    return findings.skipped(
      "loss", f"{said}; no bands to compare it with (--bands=FILE)"
    )
  if others := loss_bands.foreign(reference, config):
    shown = "; ".join(others[:_SHOWN])
    return findings.skipped("loss", f"{said}; the bands are of others: {shown}")
  if not (levels := loss_bands.judged(row, reference.bands)):
    return findings.skipped("loss", f"{said}; there are no bands of this step")
  if not (complaints := loss_bands.compare(row, reference.bands)):
    of = f"{len(levels)} of {len(metrics.bin_names())} noise levels"
    return findings.ok("loss", f"{said}; as in healthy runs at {of}")
  more = len(complaints) - _SHOWN
  return findings.warning(
    "loss",
    f"{said}: {' '.join(complaints[:_SHOWN])}"
    + (f" And {more} more." if more > 0 else ""),
    "too high at high logsnr: look at the pixels; at low logsnr: at the text;"
    " everywhere: train longer, or at optimizer.learning_rate",
  )


def time(workdir: epath.Path) -> findings.Finding:
  """The goodput table, and a warning when too much is not training."""
  if not (workdir / events.FILE).exists():
    return findings.skipped("time", f"there is no {events.FILE}")
  account = goodput.read(workdir)
  said = "\n".join(
    (f"{account.share():.0%} of it was training", goodput.table(account))
  )
  if account.wall < _LONG or account.share() >= _GOOD:
    return findings.ok("time", said)
  most = max(_REMEDIES, key=lambda kind: account.seconds[kind])
  return findings.warning(
    "time", said, f"most of the rest is {most}: {_REMEDIES[most]}"
  )
