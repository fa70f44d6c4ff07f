"""The vocabulary of T5 as a sentencepiece model, made from our JSON of it.

sentencepiece_model(path) writes what Google publishes as spiece.model: 32,000
pieces with their scores, and the table by which text is normalised. The file is
a protocol buffer of a few fields, which is written here by hand: no version of
protobuf has to agree with any other.
"""

import base64
import gzip
import json
import os
import pathlib
import struct

JSON = (
  pathlib.Path(__file__).parents[1]
  / "imagen_jax"
  / "assets"
  / "t5"
  / "tokenizer.json.gz"
)
PIECES = 32_000  # the 100 sentinels after them are not in the model
PAD, END, UNKNOWN = range(3)
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # sentencepiece's types of pieces


def sentencepiece_model(path: str | os.PathLike) -> None:
  """Writes the model that sentencepiece reads."""
  content = json.loads(gzip.decompress(JSON.read_bytes()))
  pieces = content["model"]["vocab"][:PIECES]
  table = content["normalizer"]["normalizers"][0]["precompiled_charsmap"]
  kinds = {PAD: _CONTROL, END: _CONTROL, UNKNOWN: _UNKNOWN}
  model = b"".join(
    _bytes(1, _piece(piece, score, kinds.get(i, _NORMAL)))
    for i, (piece, score) in enumerate(pieces)
  )
  unigram = _integer(3, 1)
  ids = {40: UNKNOWN, 41: -1, 42: END, 43: PAD}  # 41: there is no start
  trainer = unigram + b"".join(_integer(k, v) for k, v in ids.items())
  normalizer = _bytes(1, b"nmt_nfkc") + _bytes(2, base64.b64decode(table))
  model += _bytes(2, trainer) + _bytes(3, normalizer)
  pathlib.Path(path).write_bytes(model)


def _piece(text: str, score: float, kind: int) -> bytes:
  number = _varint(2 << 3 | 5) + struct.pack("<f", score)
  return _bytes(1, text.encode()) + number + _integer(3, kind)


def _bytes(field: int, value: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(value)) + value


def _integer(field: int, value: int) -> bytes:
  return _varint(field << 3) + _varint(value % 2**64)


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])
