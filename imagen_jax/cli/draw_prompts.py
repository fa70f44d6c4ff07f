"""Images of many prompts into a folder, a group of prompts at a time."""

from collections.abc import Sequence

import jax
import tqdm
from etils import epath

from imagen_jax import api
from imagen_jax.cascade import pipeline
from imagen_jax.cli import pictures


def draw(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  request: pictures.Request,
  prompts: Sequence[str],
  out: epath.Path,
  *,
  indices: Sequence[int],
  group: int,
  bar: tqdm.tqdm,
) -> None:
  """Writes images number `indices` of each prompt, of the last stage.

  `group` prompts are drawn together, so that all batches have one shape and one
  program is compiled; the last group is filled up.
  """
  n, last = len(indices), cascade.stages[-1].name

  def progress(stage: str, done: int, total: int) -> None:
    bar.set_postfix_str(f"{stage} {done}/{total}", refresh=True)

  for start in range(0, len(prompts), group):
    some = list(prompts[start : start + group])
    parts = api.images(
      cascade,
      params,
      some + some[-1:] * (group - len(some)),
      jax.random.key(request.seed),
      indices=indices,
      batch_size=request.batch_size,
      progress=progress,
    )
    for part in parts:
      if cascade.stages[part.stage].name != last:
        continue
      for j, image in enumerate(part.images, part.start):
        row, place = divmod(j, n)
        if row < len(some):
          name = pictures.file_name(request, some[row], indices[place])
          chunks = pictures.metadata(request, some[row], indices[place], last)
          pictures.write(out, image, name, chunks)
          bar.update()
