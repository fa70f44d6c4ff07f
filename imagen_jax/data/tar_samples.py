"""Samples of a WebDataset archive, as a stream.

  a/1.jpg  a/1.txt  a/2.x.jpg      yields  "a/1", {"jpg": ..., "txt": ...}
                                           "a/2", {"x.jpg": ...}

Members of a sample lie side by side; its key ends at the first dot of the name.
"""

import itertools
import operator
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

_MAX_BYTES = 1 << 36
# What a header may raise besides: of no number, of 1,000 names in a row.
_DAMAGE = (ValueError, IndexError, OverflowError, RecursionError)


class Part(NamedTuple):
  """A file of a sample."""

  size: int
  data: bytes  # none where it is not wanted


def read(
  file: BinaryIO, *, wanted: Callable[[str, int], bool]
) -> Iterator[tuple[str, dict[str, Part]]]:
  """(key, parts by extension), the data of those `wanted(extension, size)`.

  Compressed or not. TarError where the archive is damaged.
  """
  with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar:
    for key, members in itertools.groupby(
      _members(tar, wanted), operator.itemgetter(0)
    ):
      yield key, {extension: part for _, extension, part in members}


class _Member(tarfile.TarInfo):
  """Python takes a damaged header, or none, for the end of the archive."""

  @classmethod
  def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
    try:
      member = super().fromtarfile(tarfile_)
    except tarfile.EOFHeaderError:
      raise
    except (tarfile.HeaderError, *_DAMAGE) as error:
      raise tarfile.ReadError(str(error)) from error
    # Python would look for the end of such a one for hours.
    if not 0 <= member.size <= _MAX_BYTES:
      raise tarfile.ReadError(f"a member of {member.size:,} bytes")
    return member


def _members(
  tar: tarfile.TarFile, wanted: Callable[[str, int], bool]
) -> Iterator[tuple[str, str, Part]]:
  """(key, extension, part) of each file; links are none."""
  for member in tar:
    tar.members = []  # else it keeps them all
    if member.isfile():
      folder, slash, name = member.name.rpartition("/")
      stem, _, extension = name.partition(".")
      extension = extension.lower()
      read = wanted(extension, member.size)
      data = tar.extractfile(member).read() if read else b""
      yield folder + slash + stem, extension, Part(member.size, data)
