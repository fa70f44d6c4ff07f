"""Checkpoint files -> flat {name: array}, memory-mapped.

Only safetensors are read: 8 bytes of header length, a JSON header, raw
little-endian data. The arrays are read-only views of the file, so nothing is
in memory before it is used. Pickles (.bin, .pt, .ckpt) can run code when they
are opened and are refused. Every refusal is one line that names the file.
"""

import json
import os
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from imagen_jax.core import errors

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
# First bytes of a pickle, of a zip archive (what torch.save writes), of HDF5.
_FOREIGN = {
  b"\x80": "a Python pickle",
  b"PK": "a zip archive, as torch.save writes",
  b"\x89HDF": "an HDF5 file",
  b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


class Checkpoint(NamedTuple):
  """Arrays by the file's own names, and the strings stored beside them."""

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]


def read_safetensors(path: str | os.PathLike) -> Checkpoint:
  """Maps a safetensors file; the arrays are read-only views of it."""
  path = os.fspath(path)
  _check_kind(path)
  try:
    # The library validates header, offsets and file length.
    with safetensors.safe_open(path, framework="np") as file:
      metadata = dict(file.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise errors.CheckpointError(
      f"{path} is corrupt or incomplete: {_one_line(error)}; fetch it again."
    ) from error
  return Checkpoint(_map_arrays(path), metadata)


def read_json(path: str | os.PathLike) -> dict:
  """Reads a JSON object, such as the config.json beside the weights."""
  path = os.fspath(path)
  _check_exists(path)
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
  except (OSError, ValueError) as error:
    raise errors.CheckpointError(
      f"{path} is not readable JSON: {_one_line(error)}; fetch it again."
    ) from error
  if not isinstance(content, dict):
    raise errors.CheckpointError(
      f"{path} holds a JSON {type(content).__name__}, expected an object."
    )
  return content


def _check_exists(path: str) -> None:
  if os.path.isdir(path):
    raise errors.BadInput(f"{path} is a folder, expected a file.")
  if not os.path.exists(path):
    raise errors.BadInput(
      f"{path} does not exist; give the path of an existing file."
    )


def _check_kind(path: str) -> None:
  """Refuses what is plainly another format, by its first bytes."""
  _check_exists(path)
  try:
    with open(path, "rb") as file:
      start = file.read(32)
  except OSError as error:
    raise errors.BadInput(
      f"{path} cannot be read: {_one_line(error)}."
    ) from error
  # Byte 9 of a safetensors file opens its JSON header; a header length that
  # happens to begin like a pickle is therefore no reason to refuse.
  if start[8:9] == b"{":
    return
  for magic, kind in _FOREIGN.items():
    if start.startswith(magic):
      raise errors.CheckpointError(
        f"{path} is {kind}; only safetensors files are read,"
        " so convert it to safetensors first."
      )


def _map_arrays(path: str) -> dict[str, np.ndarray]:
  """Views into the mapped file, in the order of the header."""
  data = np.memmap(path, dtype=np.uint8, mode="r")
  length = int.from_bytes(data[:8].tobytes(), "little")
  header = json.loads(data[8 : 8 + length].tobytes())
  body = data[8 + length :]
  arrays = {}
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    if entry["dtype"] not in _DTYPES:
      raise errors.CheckpointError(
        f"{path}: tensor {name} has dtype {entry['dtype']},"
        f" known are {', '.join(_DTYPES)}."
      )
    begin, end = entry["data_offsets"]
    flat = body[begin:end].view(_DTYPES[entry["dtype"]])
    arrays[name] = np.asarray(flat).reshape(entry["shape"])
  return arrays


def _one_line(error: Exception) -> str:
  """An exception's message without line breaks or a final stop."""
  return " ".join(str(error).split()).rstrip(".")
