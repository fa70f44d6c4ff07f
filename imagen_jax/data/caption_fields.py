"""Captions out of one example: a field by its name, text out of its value.

  read({"captions": [{"text": "a cat"}, {"text": "pets"}]}, "captions/text")
    yields "a cat", "pets"

A field is a key, or keys joined by "/"; a list on the way means each of its
items. What is yielded is valid Unicode, or None where there is no caption. An
empty string is a caption.
"""

import difflib
from collections.abc import Iterator, Sequence

import numpy as np

from imagen_jax.core import errors

PREFERRED = ("caption", "text")


def choose(
  field: str | None,
  present: Sequence[str],
  *,
  where: str,
  preferred: Sequence[str] = PREFERRED,
) -> str:
  """`field`, or else the first preferred one, if present; BadInput if not."""
  wanted = preferred if field is None else (field,)
  for name in wanted:
    if name in present:
      return name
  has = ", ".join(map(str, present))[:500] or "none"
  close = difflib.get_close_matches(wanted[0], map(str, present), n=1)
  raise errors.BadInput(
    f"{where} has no field {' or '.join(map(repr, wanted))}; it has: {has}."
    + (f" Did you mean {close[0]!r}?" if close else " Name one as the field.")
  )


def read(
  example: object, field: str | None, *, where: str
) -> Iterator[str | None]:
  """The captions of an example, in order; `where` is for messages."""
  if isinstance(example, list):
    for item in example:
      yield from read(item, field, where=where)
    return
  if not isinstance(example, dict):
    raise errors.DataError(
      f"{where} is {type(example).__name__}, expected an object with fields."
    )
  head, _, rest = (field or "").partition("/")
  if rest and field not in example:
    inner = example[choose(head, list(example), where=where)]
    yield from read(inner, rest, where=where)
  else:
    name = choose(field, list(example), where=where)
    yield from texts(example[name], where=f"{name!r} of {where}")


def texts(value: object, *, where: str) -> Iterator[str | None]:
  """The texts of a value: of one, or of a list of them."""
  if value is None:
    yield None
  elif isinstance(value, (str, bytes)):
    yield text(value, where=where)
  elif isinstance(value, list) or (
    isinstance(value, np.ndarray) and value.ndim > 0
  ):
    for item in value:
      yield from texts(item, where=where)
  else:
    raise errors.DataError(
      f"{where} is {type(value).__name__}, expected text or a list of texts."
    )


def text(value: str | bytes, *, where: str) -> str:
  """Valid Unicode: bytes must be UTF-8, a lone surrogate becomes "?"."""
  if isinstance(value, str):
    return value.encode("utf-8", "replace").decode()
  try:
    return value.decode()
  except UnicodeDecodeError as error:
    raise errors.DataError(
      f"{where} is not UTF-8 ({error.reason} at byte {error.start}); convert it"
      " to UTF-8."
    ) from error
