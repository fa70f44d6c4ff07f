"""A set of images by prompt: a folder with a manifest that names everything.

  manifest.json  {"kind": "image_set", "schema": 1, "made": {...},
                  "images": [{"file", "prompt", "category", "index"}, ...]}

`made` is whatever made the images (seed, settings, weights). Where a folder has
no manifest, the record in each PNG of `imagen sample` says its prompt. Files
are names in the folder, never paths out of it.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import PIL.Image

from imagen_jax.core import errors, files
from imagen_jax.evals import prompts as prompts_lib

MANIFEST = "manifest.json"
KIND = "image_set"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_MAX_BYTES = 256 << 20


class Entry(NamedTuple):
  """One image: its file in the folder, and what it was asked to show."""

  file: str
  prompt: str
  category: str = ""
  index: int = 0  # which of the images of its prompt


class ImageSet(NamedTuple):
  """The images of a folder, in the order of its prompts."""

  folder: pathlib.Path
  entries: tuple[Entry, ...]
  made: dict

  @property
  def prompts(self) -> list[prompts_lib.Prompt]:
    """Each prompt once, in the order of the set."""
    first = {e.prompt: e.category for e in reversed(self.entries)}
    order = dict.fromkeys(entry.prompt for entry in self.entries)
    return [prompts_lib.Prompt(text, first[text]) for text in order]

  def by_prompt(self) -> dict[str, list[Entry]]:
    """The images of each prompt, by their number."""
    groups: dict[str, list[Entry]] = {}
    for entry in self.entries:
      groups.setdefault(entry.prompt, []).append(entry)
    return {
      text: sorted(some, key=lambda e: (e.index, e.file))
      for text, some in groups.items()
    }


def write(
  folder: files.PathLike, entries: Sequence[Entry], made: Mapping
) -> None:
  """Writes the manifest, atomically; the images are there already."""
  files.write_json(
    pathlib.Path(folder) / MANIFEST,
    {
      "kind": KIND,
      "schema": 1,
      "made": dict(made),
      "images": [entry._asdict() for entry in entries],
    },
  )


def has_manifest(folder: files.PathLike) -> bool:
  """Whether the folder has the manifest of a set of images, whole or not."""
  path = pathlib.Path(folder, MANIFEST)
  try:
    if path.stat().st_size > _MAX_BYTES:
      return False
    value = files.parse_json(path.read_bytes())
  except (OSError, ValueError):
    return False
  return isinstance(value, dict) and value.get("kind") == KIND


def read(folder: files.PathLike) -> ImageSet:
  """The set in a folder; BadInput where there is none, or files are missing."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise errors.BadInput(
      f"{str(folder)!r} is no folder; give one that `imagen evaluate drawbench`"
      " or `imagen sample` wrote."
    )
  manifest = folder / MANIFEST
  if manifest.exists():
    entries, made = _parse(manifest)
  else:
    entries, made = _from_records(folder), {}
  if not entries:
    raise errors.BadInput(
      f"{str(folder)!r} has no {MANIFEST} and no PNG of `imagen sample`, so the"
      " prompts of its images are not known; write a manifest (docs/rating.md)."
    )
  missing = [e.file for e in entries if not (folder / e.file).is_file()]
  if missing:
    raise errors.BadInput(
      f"{len(missing)} images of {str(manifest)!r} are not there, as"
      f" {missing[0]!r}; run the command that made the set again."
    )
  return ImageSet(folder, tuple(entries), made)


def _parse(path: pathlib.Path) -> tuple[list[Entry], dict]:
  try:
    if path.stat().st_size > _MAX_BYTES:
      raise ValueError("it is too large")
    value = files.parse_json(path.read_bytes())
    if not isinstance(value, dict) or value.get("kind") != KIND:
      raise ValueError(f'its "kind" is not "{KIND}"')
    if value.get("schema") != 1:
      raise ValueError(f"its schema is {value.get('schema')!r}, not 1")
    entries = [_entry(row) for row in value["images"]]
    made = value.get("made", {})
    if not isinstance(made, dict):
      raise ValueError('"made" is no group')
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise errors.BadInput(
      f"{str(path)!r} is no manifest of images ({type(error).__name__}:"
      f" {error}); docs/rating.md says what it holds."
    ) from error
  return entries, made


def _entry(row: Mapping) -> Entry:
  name = row["file"]
  if not files.is_plain_name(name) or not name.lower().endswith(ENDINGS):
    raise ValueError(f"{name!r} is not the name of an image beside it")
  texts = (row["prompt"], row.get("category", ""))
  if not all(isinstance(text, str) for text in texts):
    raise ValueError(f"the prompt or category of {name!r} is no text")
  index = row.get("index", 0)
  if not isinstance(index, int):
    raise ValueError(f"the index of {name!r} is no number")
  prompt, category = map(prompts_lib.clean, texts)
  return Entry(name, prompt, category, index)


def _from_records(folder: pathlib.Path) -> list[Entry]:
  """Images of the last stage, by the text chunks in them."""
  found = []
  for path in sorted(folder.glob("*.png")):
    size, chunks = _head(path)
    index = chunks.get("index", "0")
    if "prompt" in chunks and "stage" in chunks and index.isdecimal():
      text = prompts_lib.clean(chunks["prompt"])
      found.append((size, Entry(path.name, text, "", int(index))))
  largest = max((size for size, _ in found), default=(0, 0))
  return [entry for size, entry in found if size == largest]


def _head(path: pathlib.Path) -> tuple[tuple[int, int], dict[str, str]]:
  """Size and text chunks of a PNG, whose pixels are not read."""
  try:
    with PIL.Image.open(path, formats=("PNG",)) as image:
      return image.size, {k: str(v) for k, v in image.info.items()}
  except (OSError, ValueError, SyntaxError):
    return (0, 0), {}


def check_same_prompts(a: ImageSet, b: ImageSet) -> None:
  """Raises BadInput unless both sets show the same prompts."""
  one, two = set(a.by_prompt()), set(b.by_prompt())
  if one == two:
    return
  text = min(one ^ two)
  only, other = (a, b) if text in one else (b, a)
  raise errors.BadInput(
    f"the sets were made by different prompts: {len(one - two)} are in"
    f" {str(a.folder)!r} alone and {len(two - one)} in {str(b.folder)!r} alone,"
    f" as {text[:80]!r}, which is in {str(only.folder)!r} and not in"
    f" {str(other.folder)!r}; make both from one file of prompts."
  )


def check_other_images(a: ImageSet, b: ImageSet) -> None:
  """Raises BadInput where both sets are the same files."""
  one, two = a.by_prompt(), b.by_prompt()
  pairs = (
    (a.folder / x.file, b.folder / y.file)
    for text in one
    for x, y in zip(one[text], two[text], strict=False)
  )
  if all(files.sha256_file(x) == files.sha256_file(y) for x, y in pairs):
    raise errors.BadInput(
      f"{str(a.folder)!r} and {str(b.folder)!r} hold the same images; give two"
      " sets that were made by different weights, settings or seeds."
    )
