"""Sets of captioned images of any size: the record, and how a set is opened.

A record is a JSON header and the image file, behind a digest of both:

  length of the header, 4 bytes, little-endian
  BLAKE2b of all that follows, 16 bytes
  header, UTF-8 JSON: {"caption": ..., "extra": {...}, "key": ...}
  image, a JPEG, PNG or WebP file

A JPEG with a flipped bit decodes to other pixels without a word, and so does
half of what else could happen to a file. The digest finds all of it when the
record is read. Of `extra` these names have a meaning:

  width, height   pixels of the upright image
  captions        all captions of the image, where it has several; `caption` is
                  the first of them

`imagen data build` makes such sets: see `build_images`.
"""

import dataclasses
import hashlib
import json
import struct
from typing import TypeAlias

from imagen_jax.core import errors, files
from imagen_jax.data import array_record_source

FORMAT = "captioned images, 1"
_HEAD = struct.Struct("<I16s")


@dataclasses.dataclass(frozen=True)
class Example:
  """An encoded image, its caption, and what else is known about it."""

  key: str  # where it came from
  caption: str
  image: bytes
  extra: dict[str, files.Json] = dataclasses.field(default_factory=dict)

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of the image, at least one."""
    return tuple(self.extra.get("captions") or (self.caption,))


ExampleSource: TypeAlias = array_record_source.ArrayRecordSource[Example]


def digest(data: bytes) -> bytes:
  """BLAKE2b of 16 bytes: of records, and to tell images apart."""
  return hashlib.blake2b(data, digest_size=16).digest()


def encode(example: Example) -> bytes:
  """Example -> bytes; the same example always gives the same bytes."""
  header = {
    "key": example.key,
    "caption": example.caption,
    "extra": example.extra,
  }
  text = json.dumps(
    header, sort_keys=True, ensure_ascii=False, separators=(",", ":")
  ).encode()
  body = text + example.image
  return _HEAD.pack(len(text), digest(body)) + body


def decode(data: bytes) -> Example:
  """Bytes -> Example, or DataError if a bit of them has changed."""
  try:
    length, expected = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if digest(body) != expected:
      raise ValueError("its digest differs")
    header = files.parse_json(body[:length])
    return Example(
      key=header["key"],
      caption=header["caption"],
      image=body[length:],
      extra=header["extra"],
    )
  except (struct.error, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f"a record of {len(data)} bytes is damaged ({error}), or was not written"
      " by `imagen data build`; build the set again."
    ) from error


def open_as_is(folder: files.PathLike) -> ExampleSource:
  """The set in a folder; nothing is checked before a record is read."""
  source = array_record_source.ArrayRecordSource(
    folder, decode=decode, checked=False
  )
  found = source.manifest.content.get("format")
  if found != FORMAT:
    raise errors.DataError(
      f"the set {source.manifest.name!r} has the format {found!r}, expected"
      f" {FORMAT!r}; give a folder that `imagen data build` made."
    )
  return source


def open_set(folder: files.PathLike, *, checked: bool = False) -> ExampleSource:
  """The set in a folder; every record is checked when it is read.

  Sizes of shards are compared with the manifest at once, their SHA-256 only if
  `checked`, which reads each byte of the set.
  """
  source = open_as_is(folder)
  array_record_source.verify(folder, source.manifest, contents=checked)
  return source
