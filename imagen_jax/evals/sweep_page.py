"""What a sweep or an ablation found, as one HTML page with its plot."""

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
from etils import epath
from jaxtyping import UInt8

from imagen_jax.core import files
from imagen_jax.evals import html_report, sweeps

NAME = "report.html"


def write(
  rows: Sequence[sweeps.Row],
  path: files.PathLike,
  *,
  title: str,
  plot: files.PathLike,
  notes: Sequence[str],
  settings: Mapping[str, object],
) -> None:
  """Writes `path`: notes, the picture `plot`, a row a point, the settings."""
  names = [*rows[0].point, *rows[0].scores]
  parts = [
    *map(html_report.paragraph, notes),
    html_report.picture(_pixels(plot), title),
    html_report.heading("Points, with 95 % intervals"),
    html_report.table(names, [_cells(row) for row in rows]),
    html_report.heading("Settings"),
    html_report.table(
      ("setting", "value"),
      [
        (name, _text(value))
        for name, value in settings.items()
        if value not in ("", {}, None)
      ],
    ),
  ]
  files.atomic_write(path, html_report.page(title, parts).encode())


def _text(value: files.Json) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def _cells(row: sweeps.Row) -> list[str]:
  scores = [
    f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    for score in row.scores.values()
  ]
  return [*map(str, row.point.values()), *scores]


def _pixels(path: files.PathLike) -> UInt8[np.ndarray, "h w 3"]:
  data = io.BytesIO(epath.Path(path).read_bytes())
  with PIL.Image.open(data, formats=("PNG",)) as image:
    return np.asarray(image.convert("RGB"))
