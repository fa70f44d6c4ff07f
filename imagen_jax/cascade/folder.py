"""The cascade on disk: stage files, and a `cascade.json` that orders them.

  cascade.json      {"format": "imagen_jax cascade", "version": 1,
                     "encoder": "minilm", "max_length": 24, "note": "",
                     "stages": [{"file": "base.safetensors",
                                 "sampler": {"steps": 32, ...}}, ...]}
  base.safetensors  the parameters; each file describes itself by metadata:
      stage, text, sampler   JSON of these groups of the training config
      step, params           updates done; "ema" or "raw"
      config_hash            of the whole training config
      encoder_sha256         of the text encoder's weights

Configs are plain dicts here; `build.py` makes a stage from one.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

from etils import epath
from jaxtyping import DTypeLike

from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Params
from imagen_jax.weights import native, readers

MANIFEST = "cascade.json"
FORMAT = "imagen_jax cascade"
STAGE_FORMAT = "imagen_jax stage"
VERSION = 1
# What a stage file must say.
_FIELDS = {
  "stage.name": str,
  "stage.resolution": int,
  "stage.low_resolution": int | None,
  "text.encoder": str,
  "text.max_length": int | None,
}


@dataclasses.dataclass(frozen=True)
class StageInfo:
  """What a stage file says of itself; the first three are plain dicts."""

  stage: dict  # `config.stage`
  text: dict  # `config.text`: encoder, max_length, ...
  sampler: dict  # `config.sampler`, the settings to sample with
  step: int = 0
  params: str = "ema"
  config_hash: str = ""
  encoder_sha256: str = ""

  @property
  def name(self) -> str:
    return self.stage["name"]


@dataclasses.dataclass(frozen=True)
class Entry:
  """A stage file and the settings to sample it with."""

  path: epath.Path
  info: StageInfo
  sampler: dict
  digest: str  # sha256 over the parameters, as the file gives it


@dataclasses.dataclass(frozen=True)
class Description:
  """A cascade without its weights, first stage first."""

  stages: tuple[Entry, ...]
  encoder: str
  max_length: int
  note: str = ""

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(entry.info.name for entry in self.stages)


def save_stage(
  path: files.PathLike,
  params: Params,
  info: StageInfo,
  *,
  dtype: DTypeLike,
) -> str:
  """Writes one stage file atomically; returns its digest."""
  metadata = {"format": STAGE_FORMAT, "version": str(VERSION)}
  for name, value in dataclasses.asdict(info).items():
    metadata[name] = value if isinstance(value, str) else _json(value)
  return native.save_params(path, params, metadata, dtype)


def read_stage(path: files.PathLike, sampler: dict | None = None) -> Entry:
  """What a stage file says; the parameters are not read.

  `sampler` replaces the settings that the file names.
  """
  metadata = readers.read_safetensors(path).metadata
  info = _info(path, metadata)
  settings = info.sampler if sampler is None else sampler
  digest = metadata.get(native.DIGEST, "")
  return Entry(epath.Path(path), info, settings, digest)


def load_params(path: files.PathLike) -> Params:
  """The parameters of a stage file as float32 numpy, digest checked."""
  return native.load_params(path)[0]


def from_files(paths: Sequence[files.PathLike], note: str = "") -> Description:
  """A cascade from stage files alone."""
  description = describe([read_stage(path) for path in paths], note)
  check(description)
  return description


def describe(entries: Sequence[Entry], note: str = "") -> Description:
  """The cascade of some stages, in order of resolution, as yet unchecked."""
  if not entries:
    raise errors.BadInput("a cascade needs one stage file at least.")
  ordered = sorted(entries, key=lambda entry: entry.info.stage["resolution"])
  text = ordered[0].info.text
  return Description(tuple(ordered), text["encoder"], text["max_length"], note)


def write_manifest(folder: files.PathLike, description: Description) -> None:
  """Writes `cascade.json`; the stage files must lie in the folder."""
  stages = [
    {"file": entry.path.name, "sampler": entry.sampler}
    for entry in description.stages
  ]
  manifest = {
    "format": FORMAT,
    "version": VERSION,
    "encoder": description.encoder,
    "max_length": description.max_length,
    "note": description.note,
    "stages": stages,
  }
  files.write_json(epath.Path(folder) / MANIFEST, manifest)


def read(folder: files.PathLike) -> Description:
  """The cascade of a folder, without its weights, checked."""
  folder = epath.Path(folder)
  path = folder / MANIFEST
  if not path.exists():
    raise errors.BadInput(
      f"{os.fspath(folder)!r} holds no {MANIFEST}; give a folder that"
      " `imagen export` wrote from two checkpoints."
    )
  manifest = readers.read_json(path)
  if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
    raise errors.BadInput(
      f"{path} is {manifest.get('format')!r} version"
      f" {manifest.get('version')!r}, expected {FORMAT!r} version {VERSION};"
      " export the cascade again with this program."
    )
  try:
    entries = tuple(_entry(folder, row) for row in manifest["stages"])
    description = Description(
      entries,
      manifest["encoder"],
      int(manifest["max_length"]),
      str(manifest.get("note", "")),
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise _corrupt(path, error) from error
  check(description)
  return description


def with_samplers(
  description: Description, samplers: Sequence[dict]
) -> Description:
  """The same cascade with other settings, one dict a stage."""
  entries = tuple(
    dataclasses.replace(entry, sampler=sampler)
    for entry, sampler in zip(description.stages, samplers, strict=True)
  )
  return dataclasses.replace(description, stages=entries)


def check(description: Description) -> None:
  """Raises BadInput if a stage does not take what the one before gives."""
  if not description.stages:
    raise errors.BadInput("the cascade has no stages; it needs one at least.")
  names = description.names
  if len(set(names)) < len(names) or "encoder" in names:
    raise errors.BadInput(
      f"stage names {', '.join(names)}: each must be another, and none"
      " 'encoder'; train with --config.stage.name=NAME."
    )
  given = None
  for entry in description.stages:
    stage, path = entry.info.stage, entry.path.name
    wanted = stage["low_resolution"] or None
    if wanted != given:
      raise errors.BadInput(
        f"{path} enlarges images of {_side(wanted)}, but the stage before"
        f" gives {_side(given)}; choose stages that fit."
      )
    _check_text(description, entry)
    given = stage["resolution"]


def _check_text(description: Description, entry: Entry) -> None:
  """Raises BadInput for a stage that was trained with another text."""
  text, first = entry.info.text, description.stages[0].info.text
  wants = (text["encoder"], text["max_length"])
  if wants != (description.encoder, description.max_length):
    raise errors.BadInput(
      f"{entry.path.name} was trained with text encoder {wants[0]!r} of"
      f" {wants[1]} tokens, the cascade uses {description.encoder!r} of"
      f" {description.max_length}; train both stages with the same text."
    )
  for name in sorted(text.keys() & first.keys()):
    if text[name] != first[name]:
      raise errors.BadInput(
        f"{entry.path.name} was trained with text.{name} = {text[name]!r}, the"
        f" first stage with {first[name]!r}; train both with the same text."
      )


def _entry(folder: epath.Path, row: dict) -> Entry:
  path = folder / row["file"]
  if path.parent != folder:
    raise errors.BadInput(
      f"{MANIFEST} names {row['file']!r}; a stage file lies in its folder."
    )
  return read_stage(path, row.get("sampler"))


def _info(path: files.PathLike, metadata: dict[str, str]) -> StageInfo:
  if metadata.get("format") != STAGE_FORMAT:
    raise errors.BadInput(
      f"{os.fspath(path)} is not one of our stage files; make one with"
      " `imagen export`, or bring other checkpoints in with `imagen import`."
    )
  try:
    names = ("stage", "text", "sampler")
    groups = {name: files.parse_json(metadata[name]) for name in names}
    for name, kind in _FIELDS.items():
      group, field = name.split(".")
      if not isinstance(groups[group][field], kind):
        raise TypeError(f"{name} is {groups[group][field]!r}")
    return StageInfo(
      **{name: dict(group) for name, group in groups.items()},
      step=int(metadata["step"]),
      params=metadata["params"],
      config_hash=metadata["config_hash"],
      encoder_sha256=metadata["encoder_sha256"],
    )
  except (KeyError, TypeError, ValueError) as error:
    raise _corrupt(path, error) from error


def _corrupt(path: files.PathLike, error: Exception) -> errors.CheckpointError:
  what = f"{type(error).__name__}: {error}"
  return errors.CheckpointError(
    f"{os.fspath(path)} does not describe a stage or cascade ({what}); export"
    " it again."
  )


def _side(resolution: int | None) -> str:
  return "no image" if resolution is None else f"{resolution}x{resolution}"


def _json(value: dict | int) -> str:
  return json.dumps(value, sort_keys=True)
