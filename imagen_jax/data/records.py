"""One record of an image set as bytes: a JSON header, then the image file.

  length of the header, 4 bytes, little-endian | header, UTF-8 JSON | image

Nothing is executed on reading, unlike a pickle, and no schema compiler is
needed. The header of an emoji has `codes` (code points in hex, joined by "-"),
`label`, `tags`, `group` (0..8, Unicode's), and `base` (the code points of the
same emoji without skin tone).
"""

import dataclasses
import json
import struct

from imagen_jax.core import errors, files

_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Record:
  """An encoded image and what is known about it."""

  codes: str
  label: str
  tags: tuple[str, ...]
  group: int
  base: str
  image: bytes  # a WebP file, RGBA


def encode(record: Record) -> bytes:
  """Record -> bytes; the same record always gives the same bytes."""
  header = dataclasses.asdict(record)
  image = header.pop("image")
  text = json.dumps(
    header, sort_keys=True, ensure_ascii=False, separators=(",", ":")
  ).encode()
  return _LENGTH.pack(len(text)) + text + image


def decode(data: bytes) -> Record:
  """Bytes -> Record, or DataError."""
  try:
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    header = files.parse_json(data[_LENGTH.size : start])
    return Record(
      codes=str(header["codes"]),
      label=str(header["label"]),
      tags=tuple(str(tag) for tag in header["tags"]),
      group=int(header["group"]),
      base=str(header["base"]),
      image=bytes(data[start:]),
    )
  except (struct.error, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f"a record of {len(data)} bytes is not a header and an image ({error!r});"
      " the shard was not written by this program, or is damaged."
    ) from error
