"""TensorBoard's event files, written without TensorFlow.

A file is a row of records, each of them one `Event` message:

  length (8 bytes), crc(length), message, crc(message)      little endian
  crc(x) = rotate(CRC-32C(x), 15) + 0xa282ead8

  Event    1 wall_time double   2 step   3 file_version   5 Summary
           7 SessionLog {1 status, 1 is START}
  Summary  1 Value, repeated
  Value    1 tag   2 simple_value float   4 Image
  Image    1 height   2 width   3 colorspace (3 is RGB)   4 encoded PNG

Only these few fields are written, so the messages are made here by hand. A
record torn by a kill ends what is read of its file: each start has its own.
"""

import functools
import io
import os
import socket
import struct
from collections.abc import Mapping

import numpy as np
import PIL.Image
from etils import epath
from jaxtyping import UInt8

from imagen_jax.core import wall_time

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_PREFIX = "events.out.tfevents"


class EventFile:
  """One file of events in `folder`, of a run that goes on from `step`."""

  def __init__(self, folder: epath.PathLike, step: int = 0):
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / _name(folder)
    self._pending = bytearray()
    self._append(_bytes(3, b"brain.Event:2"))
    # A start: what earlier files have from this step on is no longer shown.
    self._append(_integer(2, step + 1) + _bytes(7, _integer(1, 1)))
    self.flush()

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """One point of each curve."""
    values = (
      _bytes(1, _bytes(1, tag.encode()) + _float(2, value))
      for tag, value in scalars.items()
    )
    self._append(_integer(2, step) + _bytes(5, b"".join(values)))

  def write_images(
    self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]
  ) -> None:
    """One picture a tag."""
    for tag, pixels in pictures.items():
      height, width, _ = pixels.shape
      size = _integer(1, height) + _integer(2, width) + _integer(3, 3)
      image = size + _bytes(4, _png(pixels))
      value = _bytes(1, _bytes(1, tag.encode()) + _bytes(4, image))
      self._append(_integer(2, step) + _bytes(5, value))

  def flush(self) -> None:
    """Appends to the file what was written since the last time."""
    with self._path.open("ab") as file:
      file.write(bytes(self._pending))
    self._pending.clear()

  def close(self) -> None:
    """Nothing is kept open between two flushes."""
    self.flush()

  def _append(self, event: bytes) -> None:
    event = b"\x09" + struct.pack("<d", wall_time.now()) + event
    length = struct.pack("<Q", len(event))
    self._pending += length + _checksum(length) + event + _checksum(event)


def _name(folder: epath.Path) -> str:
  """TensorBoard reads files by name: this one after those that are there."""
  others = [path.name.split(".")[3] for path in folder.glob(f"{_PREFIX}.*")]
  seconds = max([int(wall_time.now()), *(int(s) + 1 for s in others)])
  return f"{_PREFIX}.{seconds:010d}.{socket.gethostname()}.{os.getpid()}"


def _varint(number: int) -> bytes:
  out = bytearray()
  while number > 0x7F:
    out.append(number & 0x7F | 0x80)
    number >>= 7
  return bytes([*out, number])


def _integer(field: int, number: int) -> bytes:
  return _varint(field << 3) + _varint(number)


def _float(field: int, number: float) -> bytes:
  with np.errstate(over="ignore"):  # too large is infinite
    return _varint(field << 3 | 5) + np.float64(number).astype("<f4").tobytes()


def _bytes(field: int, data: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(data)) + data


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png")
  return buffer.getvalue()


@functools.cache
def _table() -> tuple[int, ...]:
  """CRC-32C of each byte."""
  table = list(range(256))
  for i in range(256):
    for _ in range(8):
      table[i] = table[i] >> 1 ^ (_POLYNOMIAL if table[i] & 1 else 0)
  return tuple(table)


def crc32c(data: bytes) -> int:
  """CRC-32C, Castagnoli's, a byte at a time."""
  table, crc = _table(), 0xFFFFFFFF
  for byte in data:
    crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
  return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
  crc = crc32c(data)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
