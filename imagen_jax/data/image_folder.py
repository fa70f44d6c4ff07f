"""Images in a folder and those below it, with captions beside them.

  a/cat.jpg   a/cat.txt    a caption a line
              a/cat.json   or a field of it, "caption" or "text"

or all captions in one table (.csv, .tsv, .jsonl, .parquet) that names the image
of each: in the column file_name, filename, file, image, path or key, as a path
below the folder, a name, or a name without its extension. Several rows may name
one image. Images are read in the order of their paths.
"""

import json
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

from imagen_jax.core import errors, files
from imagen_jax.data import caption_fields, caption_files, image_item

NAME_FIELDS = ("file_name", "filename", "file", "image", "path", "key")

Table = Mapping[str, list[str | None]]


def find(folder: files.PathLike) -> list[str]:
  """Paths below the folder, sorted; hidden files are left out."""
  found = []
  for parent, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    found += [
      pathlib.Path(parent, name).relative_to(folder).as_posix()
      for name in names
      if not name.startswith(".")
      and name.rpartition(".")[2].lower() in image_item.EXTENSIONS
    ]
  return sorted(found)


def read_table(path: str, field: str | None = None) -> Table:
  """{name: captions} of a table."""
  (path,) = caption_files.find([path])
  column = _name_column(path)
  table = defaultdict(list)
  try:
    for name, caption in zip(
      caption_files.read(path, column),
      caption_files.read(path, field),
      strict=True,
    ):
      table[name].append(caption)
  except ValueError as error:
    if isinstance(error, errors.ImagenError):
      raise
    raise errors.DataError(
      f"{path} has not one caption for each {column!r}; write a row for each"
      " caption."
    ) from error
  return table


def _name_column(path: str) -> str:
  for column in NAME_FIELDS:
    try:
      next(caption_files.read(path, column), None)
      return column
    except errors.BadInput:
      continue
  raise errors.BadInput(
    f"{path} names no images; give it a column {' or '.join(NAME_FIELDS)}."
  )


def read(
  folder: files.PathLike, table: Table | None = None, field: str | None = None
) -> Iterator[image_item.Item]:
  """The images of a folder, with captions of the table or beside them."""
  for name in find(folder):
    path = pathlib.Path(folder, name)
    key = caption_fields.text(name, where=name)
    try:
      if path.stat().st_size > image_item.MAX_BYTES:
        yield image_item.too_large(key, path.stat().st_size)
        continue
      image = path.read_bytes()
    except OSError as error:
      yield image_item.Item(key, problem="no image", detail=str(error.strerror))
      continue
    try:
      texts = _beside(path, field) if table is None else _of(table, name)
      yield image_item.Item(key, image, image_item.given(texts))
    except errors.ImagenError as error:
      yield image_item.Item(key, problem="bad caption", detail=str(error))


def _of(table: Table, name: str) -> list[str | None]:
  path = pathlib.PurePosixPath(name)
  for known in (name, path.name, path.stem):
    if known in table:
      return table[known]
  return []


def _beside(path: pathlib.Path, field: str | None) -> list[str | None]:
  """KEY.txt, or KEY.json where a field is named or there is no KEY.txt."""
  text, data = path.with_suffix(".txt"), path.with_suffix(".json")
  if field is None and text.is_file():
    return list(caption_files.read(str(text)))
  if not data.is_file():
    return []
  try:
    content = json.loads(data.read_bytes())
  except (ValueError, RecursionError) as error:
    raise errors.DataError(f"{data.name} is not JSON ({error}).") from error
  return list(caption_fields.read(content, field, where=data.name))
