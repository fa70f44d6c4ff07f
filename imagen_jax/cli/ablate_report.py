"""What an ablation ends in: plot.png, finding.txt and report.html."""

from collections.abc import Sequence

import ml_collections
import numpy as np
from etils import epath

from imagen_jax.cli import emoji_sweep
from imagen_jax.core import files
from imagen_jax.evals import findings, plots, sweep_page, sweeps


def write(
  config: ml_collections.ConfigDict,
  points: Sequence[sweeps.Point],
  rows: list[sweeps.Row],
  identity: dict,
  out: epath.Path,
) -> None:
  """The files, and the numbers on the terminal."""
  for row in rows:
    print(f"  {emoji_sweep.told(row)}")
  *lines, label = points[0]
  title = f"{config.title} (as Fig. {config.figure})"
  if label == "updates":
    drawn = {arm: _over_seconds(rows, arm, out / arm) for arm in config.arms}
    plots.curves(
      drawn,
      out / "plot.png",
      y=emoji_sweep.Y,
      x_label="seconds of training, compilation left out",
      title=title,
    )
    axes = [emoji_sweep.Y]
  else:
    plots.pareto(
      rows,
      out / "plot.png",
      x=emoji_sweep.X,
      y=emoji_sweep.Y,
      lines=lines,
      label=label,
      title=title,
    )
    axes = [emoji_sweep.X, emoji_sweep.Y]
  said = findings.sentence(rows, lines[0] if lines else label, axes)
  files.atomic_write(out / "finding.txt", f"{said}\n".encode())
  sweep_page.write(
    rows,
    out / sweep_page.NAME,
    title=title,
    plot=out / "plot.png",
    notes=[said],
    settings=identity,
  )
  print(f"  finding: {said}\n  report: {out / sweep_page.NAME}", flush=True)


def _over_seconds(
  rows: list[sweeps.Row], arm: str, workdir: epath.Path
) -> tuple[list[float], list[sweeps.Scores]]:
  """Seconds of training at each point of an arm, by its metrics."""
  own = [row for row in rows if row.point["arm"] == arm]
  logged = list(files.read_jsonl(workdir / "metrics.jsonl"))
  step = float(np.median([row["step_time_s"] for row in logged]))
  return [row.point["updates"] * step for row in own], [
    row.scores for row in own
  ]
