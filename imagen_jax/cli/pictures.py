"""What `imagen sample` writes: one PNG an image, and a contact sheet.

A file is named for its prompt's letters, a hash of all that decides the image,
and the image's number: `a-3d-render-of-a-crab-5f0c2a91-000.png`. So one request
made twice writes the same files, and another never overwrites them. The prompt
itself, and whatever else `imagen reproduce` needs, is in the text chunks.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import unicodedata
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from imagen_jax import version
from imagen_jax.cascade import folder, pipeline
from imagen_jax.core import contact_sheet, images

SHEET = contact_sheet.NAME
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
_SLUG_LENGTH = 40
# A sheet is for the eye: so many rows, images in a row, and pixels a side.
_ROWS, _COLUMNS, _SIDE = 64, 8, 256


@dataclasses.dataclass(frozen=True)
class Request:
  """All that decides the images of a run, but prompt and number."""

  seed: int
  settings: dict[str, dict]  # by stage: SamplerSettings and the dtype
  weights: dict[str, str]  # by stage: SHA-256 of the parameters
  config_hash: dict[str, str]  # by stage: of the training config
  encoder: dict[str, str | int]  # name, max_length, sha256
  batch_size: int
  edit: dict = dataclasses.field(default_factory=dict)  # `edit_flags.Asked`
  mesh: str = ""  # of several devices, which may round otherwise
  negative_prompt: str = ""


def request(
  cascade: pipeline.Cascade,
  description: folder.Description,
  *,
  seed: int,
  batch_size: int,
  edit: dict | None = None,
  mesh: str = "",
  negative_prompt: str = "",
) -> Request:
  """The request that a loaded cascade answers."""
  encoder = cascade.encoder
  pairs = list(zip(cascade.stages, cascade.settings, strict=True))
  entries = description.stages
  return Request(
    seed=seed,
    settings={
      stage.name: dataclasses.asdict(settings)
      | {"dtype": np.dtype(stage.module.dtype).name}
      for stage, settings in pairs
    },
    weights={entry.info.name: entry.digest for entry in entries},
    config_hash={entry.info.name: entry.info.config_hash for entry in entries},
    encoder={
      "name": encoder.name,
      "max_length": encoder.max_length,
      "sha256": encoder.fingerprint,
    },
    batch_size=batch_size,
    edit=edit or {},
    mesh=mesh,
    negative_prompt=negative_prompt,
  )


def metadata(
  request: Request, prompt: str, index: int, stage: str
) -> dict[str, str]:
  """The text chunks of one image."""
  edit = {"edit": _json(request.edit)} if request.edit else {}
  return edit | {
    "Software": f"imagen_jax {version.VERSION}",
    "prompt": prompt,
    "negative_prompt": request.negative_prompt,
    "seed": str(request.seed),
    "index": str(index),
    "stage": stage,
    "settings": _json(request.settings),
    "batch_size": str(request.batch_size),
    "weights": _json(request.weights),
    "config_hash": _json(request.config_hash),
    "encoder": _json(request.encoder),
    "versions": _json(
      versions() | ({"mesh": request.mesh} if request.mesh else {})
    ),
  }


def file_name(
  request: Request, prompt: str, index: int, stage: str | None = None
) -> str:
  """A safe name; `stage` marks an image that is not of the last one."""
  decides = [prompt, request.seed, request.settings, request.weights]
  # What came later counts where it is used: names of before stay.
  decides += [each for each in (request.edit, request.negative_prompt) if each]
  digest = hashlib.sha256(_json(decides).encode()).hexdigest()[:8]
  end = f"-{stage}" if stage else ""
  return f"{slug(prompt)}-{digest}-{index:03d}{end}.png"


def slug(prompt: str) -> str:
  """Lower-case ASCII letters, digits and dashes; "image" if none are left."""
  plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore")
  words = re.sub(r"[^a-z0-9]+", "-", plain.decode().lower()).strip("-")
  return words[:_SLUG_LENGTH].rstrip("-") or "image"


def write(
  out: epath.Path,
  image: Float[np.ndarray, "h w 3"],
  name: str,
  chunks: Mapping[str, str],
) -> UInt8[np.ndarray, "h w 3"]:
  """Writes one PNG; returns its pixels."""
  pixels = images.to_uint8(image)
  images.write_png(out / name, pixels, chunks)
  return pixels


def write_sheet(
  out: epath.Path,
  prompts: Sequence[str],
  rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
) -> epath.Path:
  """The contact sheet of the first images of the first prompts."""
  shown = [np.stack(row[:_COLUMNS]) for row in rows[:_ROWS]]
  sheet = contact_sheet.labelled(
    [_small(row) for row in shown], list(prompts)[:_ROWS]
  )
  path = out / SHEET
  images.write_png(path, sheet, {"Software": f"imagen_jax {version.VERSION}"})
  return path


def _small(row: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n s t 3"]:
  """Images of more than 256 pixels a side, at 256."""
  h, w = row.shape[1:3]
  if max(h, w) <= _SIDE:
    return row
  scale = _SIDE / max(h, w)
  size = max(1, round(h * scale)), max(1, round(w * scale))
  x = images.resize_antialias(jax.numpy.asarray(images.from_uint8(row)), size)
  return images.to_uint8(x)


def versions() -> dict[str, str]:
  """What made the images, as far as it may round otherwise."""
  installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return installed | {
    "imagen_jax": version.VERSION,
    "python": platform.python_version(),
    "platform": jax.default_backend(),
  }


def _json(value: dict | list) -> str:
  return json.dumps(value, sort_keys=True, ensure_ascii=False)
