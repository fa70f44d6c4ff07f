"""Captions in files, read as a stream: of any size, in constant memory.

  .txt       a caption a line; \\n ends a line, one \\r before it is dropped
  .jsonl     an object a line
  .csv .tsv  with a header; quoted cells may hold separators and newlines
  .parquet   a column of texts, or of lists of texts
  .tar       WebDataset: KEY.txt holds a caption, or KEY.json a field of it

All but Parquet may be compressed: captions.txt.gz. The field is "caption" or
"text" where none is named. Paths are local or gs://, and may hold * ? [a-z] and
{00..31}, a range of numbers.
"""

import codecs
import contextlib
import csv
import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from etils import epath

from imagen_jax.core import errors
from imagen_jax.data import caption_fields, tar_samples

_BATCH = 1024  # rows of Parquet in memory
# The most that csv takes on every system; by default it refuses 128 KiB.
_CELL = 2**31 - 1


def find(patterns: Sequence[str], *, advice: str | None = None) -> list[str]:
  """The files of paths and patterns, sorted within each.

  Raises BadInput if there is none, with `advice` on what to give.
  """
  advice = advice or (
    "give the captions as a path or pattern"
    f" ({' '.join(_READERS)}), as tfds:NAME, seqio:NAME, or emoji."
  )
  names = [
    name
    for pattern in patterns
    for path in _ranges(pattern)
    for name in _matches(path, advice)
  ]
  if not names:
    raise errors.BadInput(f"{' '.join(patterns)!r} names no file.")
  for name in names:
    _reader(name)
  return names


def read(path: str, field: str | None = None) -> Iterator[str | None]:
  """The captions of a file; None where an example has none."""
  return _reader(path)(path, field)


def _ranges(pattern: str) -> Iterator[str]:
  """a{08..10} -> a08, a09, a10."""
  match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
  if match is None:
    yield pattern
    return
  first, last = match.groups()
  for number in range(int(first), int(last) + 1):
    digits = str(number).zfill(len(first))
    yield from _ranges(
      pattern[: match.start()] + digits + pattern[match.end() :]
    )


def _matches(pattern: str, advice: str) -> list[str]:
  """The file of that name, or else those that the pattern fits."""
  path = epath.Path(pattern)
  if path.is_file():
    return [pattern]
  if path.is_dir():
    raise errors.BadInput(
      f"{pattern} is a folder; name its files, as in {pattern}/*.jsonl."
    )
  if "**" in pattern:
    raise errors.BadInput(
      f"{pattern} has **, which is not read; write a * for each folder."
    )
  names = []
  if wild := re.search(r"[*?\[]", pattern):
    cut = pattern.rfind("/", 0, wild.start()) + 1
    root = epath.Path(pattern[:cut] or ".")
    names = sorted(str(p) for p in root.glob(pattern[cut:]) if p.is_file())
  if not names:
    raise errors.BadInput(f"there is no file {pattern}; {advice}")
  return names


Reader = Callable[[str, str | None], Iterator[str | None]]


def _reader(path: str) -> Reader:
  name = path.lower()
  plain = name.removesuffix(".gz")
  for extension, reader in _READERS.items():
    if plain.endswith(extension) and (plain == name or reader is not _parquet):
      return reader
  raise errors.BadInput(
    f"{path} has none of the extensions {' '.join(_READERS)}, or these with .gz"
    " (but .parquet)."
  )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
  """The bytes of a file, decompressed; DataError if they cannot be read."""
  try:
    with epath.Path(path).open("rb") as file:
      if path.lower().endswith(".gz"):
        yield gzip.GzipFile(fileobj=file)
      else:
        yield file
  except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
    raise errors.DataError(
      f"{path} cannot be read ({error}); it is damaged or not complete."
    ) from error


def _lines(path: str) -> Iterator[tuple[str, str]]:
  """(where it is, line with its end)."""
  with _opened(path) as file:
    for number, line in enumerate(file, 1):
      where = f"line {number} of {path}"
      if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
      yield where, caption_fields.text(line, where=where)


def _text(path: str, field: str | None) -> Iterator[str | None]:
  if field is not None:
    raise errors.BadInput(
      f"{path} is plain text and has no field {field!r}; leave the field out."
    )
  for _, line in _lines(path):
    yield line.removesuffix("\n").removesuffix("\r")


def _json_lines(path: str, field: str | None) -> Iterator[str | None]:
  for where, line in _lines(path):
    if line.strip():
      yield from caption_fields.read(_json(line, where), field, where=where)


def _json(text: str | bytes, where: str) -> object:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise errors.DataError(f"{where} is not JSON ({error}).") from error


def _table(
  path: str, field: str | None, delimiter: str = ","
) -> Iterator[str | None]:
  csv.field_size_limit(_CELL)
  # Strict, as a lone quotation mark would swallow the rows after it.
  lines = (line for _, line in _lines(path))
  rows = csv.reader(lines, delimiter=delimiter, strict=True)
  try:
    header = next(rows, [])
    name = caption_fields.choose(field, header, where=f"the header of {path}")
    place = header.index(name)
    for row in filter(None, rows):
      if len(row) != len(header):
        raise errors.DataError(
          f"the row that ends in line {rows.line_num} of {path} has {len(row)}"
          f" cells, the header has {len(header)}."
        )
      yield row[place]
  except csv.Error as error:
    raise errors.DataError(
      f"line {rows.line_num} of {path} is not a row ({error}); a cell with"
      ' quotation marks is written "so ""quoted"" here".'
    ) from error


def _tabbed(path: str, field: str | None) -> Iterator[str | None]:
  return _table(path, field, "\t")


def _parquet(path: str, field: str | None) -> Iterator[str | None]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise errors.BadInput(
      f"{path} needs pyarrow; run: pip install pyarrow"
    ) from error
  try:
    with _opened(path) as file:
      table = parquet.ParquetFile(file)
      name = caption_fields.choose(field, table.schema_arrow.names, where=path)
      where = f"{name!r} of {path}"
      for rows in table.iter_batches(batch_size=_BATCH, columns=[name]):
        for value in rows.column(0).to_pylist():
          yield from caption_fields.texts(value, where=where)
  except (pyarrow.ArrowException, UnicodeDecodeError) as error:
    raise errors.DataError(f"{path} is not Parquet ({error}).") from error


def _tar(path: str, field: str | None) -> Iterator[str | None]:
  """KEY.txt, or KEY.json where a field is named or there is no KEY.txt."""
  seen: set[str] = set()
  found = False
  with _opened(path) as file:
    for key, parts in tar_samples.read(file, wanted=_is_text):
      where = f"{key} in {path}"
      seen |= set(parts)
      found |= "json" in parts or ("txt" in parts and field is None)
      if "txt" in parts and field is None:
        text = caption_fields.text(parts["txt"].data, where=f"{where} (txt)")
        yield text.removesuffix("\n").removesuffix("\r")
      elif "json" in parts:
        where = f"{where} (json)"
        example = _json(parts["json"].data, where)
        yield from caption_fields.read(example, field, where=where)
      else:
        yield None
  if seen and not found:
    wanted = "KEY.txt or KEY.json" if field is None else "KEY.json"
    raise errors.BadInput(
      f"{path} holds no {wanted}, only: {', '.join(sorted(seen))}."
    )


def _is_text(extension: str, size: int) -> bool:
  return extension in ("txt", "json")


_READERS: dict[str, Reader] = {
  ".txt": _text,
  ".jsonl": _json_lines,
  ".csv": _table,
  ".tsv": _tabbed,
  ".parquet": _parquet,
  ".tar": _tar,
}
