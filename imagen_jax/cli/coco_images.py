"""The images of COCO's list, and the list itself, into a folder.

OUT/samples.jsonl  a line a caption: annotation, real file, prompt, its file
OUT/prompts.txt    the prompts alone, in that order
OUT/images/        a PNG each, and manifest.json
"""

import collections
import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import tqdm
from etils import epath

from imagen_jax import api
from imagen_jax.cli import draw_prompts, pictures
from imagen_jax.core import files
from imagen_jax.evals import coco, image_set


class Drawn(NamedTuple):
  """The images of the list, and what made them."""

  folder: epath.Path
  names: list[str]  # by sample
  made: dict


def draw(
  cfg: ml_collections.ConfigDict,
  found: coco.Captions,
  samples: Sequence[coco.Sample],
  out: epath.Path,
) -> Drawn:
  """Writes the list, then the images of it that are missing."""
  description = api.describe(cfg.cascade)
  if cfg.encoder:
    description = dataclasses.replace(description, encoder=cfg.encoder)
  api.check(description)
  cascade, params = api.load(description)
  batch = min(cfg.batch_size, len(samples))
  request = pictures.request(
    cascade, description, seed=cfg.seed, batch_size=batch
  )
  names = [
    pictures.file_name(request, sample.caption.text, sample.index)
    for sample in samples
  ]
  _write_list(found, samples, names, out)
  folder = files.check_writable(out / "images")
  there = {path.name for path in folder.iterdir()}
  missing: dict[int, list[str]] = collections.defaultdict(list)
  for sample, name in zip(samples, names, strict=True):
    if name not in there:
      missing[sample.index].append(sample.caption.text)
  total = sum(map(len, missing.values()))
  with tqdm.tqdm(total=total, unit="image", disable=not total) as bar:
    for index, prompts in sorted(missing.items()):
      draw_prompts.draw(
        cascade, params, request, prompts, folder,
        indices=[index], group=batch, bar=bar,
      )  # fmt: skip
  made = dataclasses.asdict(request) | {"versions": pictures.versions()}
  entries = [
    image_set.Entry(name, sample.caption.text, "", sample.index)
    for sample, name in zip(samples, names, strict=True)
  ]
  image_set.write(folder, entries, made)
  return Drawn(folder, names, made)


def _write_list(
  found: coco.Captions,
  samples: Sequence[coco.Sample],
  names: Sequence[str],
  out: epath.Path,
) -> None:
  rows = [
    {
      "annotation": sample.caption.id,
      "real": found.names[sample.caption.image],
      "prompt": sample.caption.text,
      "index": sample.index,
      "file": f"images/{name}",
    }
    for sample, name in zip(samples, names, strict=True)
  ]
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  files.atomic_write(out / "samples.jsonl", lines.encode())
  texts = "".join(f"{sample.caption.text}\n" for sample in samples)
  files.atomic_write(out / "prompts.txt", texts.encode())
