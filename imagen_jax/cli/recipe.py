"""The record in an image of `imagen sample`, read and held to the weights.

`pictures.metadata` writes the text chunks; `read` is its inverse. `check` says
before any weights are loaded whether a cascade on disk is the one that made the
image, and `settings` gives it the settings of then.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from imagen_jax.cascade import folder
from imagen_jax.cli import edit_record, pictures
from imagen_jax.core import errors, files, images

_GROUPS = ("settings", "weights", "config_hash", "encoder", "versions")
_MAX_SEED = 2**32 - 1
_MAX_BATCH = 4096


@dataclasses.dataclass(frozen=True)
class Recipe:
  """All that made one image."""

  prompt: str
  index: int
  stage: str  # whose image it is
  request: pictures.Request
  versions: dict[str, str]

  @property
  def dtype(self) -> str | None:
    """That of the computation, if all stages had the same."""
    kinds = {group.get("dtype") for group in self.request.settings.values()}
    return kinds.pop() if len(kinds) == 1 else None


def read(path: files.PathLike) -> tuple[UInt8[np.ndarray, "h w 3"], Recipe]:
  """The pixels of an image file and its recipe; BadInput if it has none."""
  pixels, chunks = images.read_png(path)
  name = os.fspath(path)
  if not chunks.get("Software", "").startswith("imagen_jax "):
    raise errors.BadInput(
      f"{name} has no record of how it was made; give a PNG as `imagen sample`"
      " wrote it: other programs drop the record when they save."
    )
  if "prompt" not in chunks:
    raise errors.BadInput(
      f"{name} is a contact sheet; give one of the images beside it."
    )
  return pixels, _parse(name, chunks)


def _parse(name: str, chunks: Mapping[str, str]) -> Recipe:
  try:
    groups = {key: files.parse_json(chunks[key]) for key in _GROUPS}
    groups["edit"] = files.parse_json(chunks.get("edit", "{}"))
    for key, group in groups.items():
      if not isinstance(group, dict):
        raise TypeError(f"{key} is no group")
    if not all(isinstance(v, dict) for v in groups["settings"].values()):
      raise TypeError("settings are no groups")
    edit_record.check(groups["edit"])
    return Recipe(
      prompt=chunks["prompt"],
      index=_number(chunks, "index", 0, _MAX_SEED),
      stage=chunks["stage"],
      request=pictures.Request(
        seed=_number(chunks, "seed", 0, _MAX_SEED),
        settings=groups["settings"],
        weights=groups["weights"],
        config_hash=groups["config_hash"],
        encoder=groups["encoder"],
        batch_size=_number(chunks, "batch_size", 1, _MAX_BATCH),
        edit=groups["edit"],
        negative_prompt=chunks.get("negative_prompt", ""),
      ),
      versions=groups["versions"],
    )
  except (KeyError, TypeError, ValueError) as error:
    raise errors.BadInput(
      f"the record in {name} is damaged ({type(error).__name__}: {error}); give"
      " the file as `imagen sample` wrote it."
    ) from error


def _number(chunks: Mapping[str, str], name: str, low: int, high: int) -> int:
  number = int(chunks[name])
  if not low <= number <= high:
    raise ValueError(f"{name} is {number}, not in {low}..{high}")
  return number


def check(recipe: Recipe, description: folder.Description, where: str) -> None:
  """Raises BadInput unless `description` is of the cascade of the recipe.

  `where` is what the user calls the cascade.
  """
  request, names = recipe.request, list(description.names)
  if set(request.weights) != set(names) or recipe.stage not in names:
    raise errors.BadInput(
      f"the image was made by stages {', '.join(request.weights)}, and {where}"
      f" has {', '.join(names)}; give the right cascade with --weights=FOLDER."
    )
  for entry in description.stages:
    name = entry.info.name
    for what, made, here in (
      ("weights", request.weights[name], entry.digest),
      ("config", request.config_hash.get(name), entry.info.config_hash),
    ):
      if made != here:
        raise errors.BadInput(
          f"the {what} of stage {name!r} in {where} are not those that made the"
          f" image ({_short(here)} here, {_short(made)} in the image); give the"
          " right cascade with --weights=FOLDER."
        )


def settings(
  recipe: Recipe, description: folder.Description
) -> folder.Description:
  """The cascade with the sampler settings of the image."""
  samplers = []
  for name in description.names:
    group = dict(recipe.request.settings.get(name, {}))
    group.pop("dtype", None)
    samplers.append(group)
  return folder.with_samplers(description, samplers)


def differences(recipe: Recipe, request: pictures.Request) -> list[str]:
  """What a loaded cascade would do in another way, as "name: then, now"."""
  rows = []
  for name, group in recipe.request.settings.items():
    now = request.settings.get(name, {})
    for field in sorted(group.keys() | now.keys()):
      # A field that came later had its default then.
      if field in group and _plain(group[field]) != _plain(now.get(field)):
        rows.append(f"{name}.{field}: {group[field]}, {now.get(field)}")
  then, now = recipe.request.encoder, request.encoder
  if then.get("sha256") != now["sha256"]:
    rows.append(
      f"text encoder: {_short(then.get('sha256'))}, {_short(now['sha256'])}"
    )
  elif then.get("max_length") != now["max_length"]:
    rows.append(f"tokens: {then.get('max_length')}, {now['max_length']}")
  return rows


def _plain(value):
  return list(value) if isinstance(value, tuple) else value


def _short(digest: str | None) -> str:
  return f"{digest[:12]}..." if digest else "none"
