"""Checkpoint files -> flat {name: array or tensor}, read when used.

Only safetensors are read: 8 bytes of header length, a JSON header, raw
little-endian data. Pickles (.bin, .pt, .ckpt) can run code when they are opened
and are refused. Every refusal is one line that names the file.

`read_safetensors` maps a file: its arrays are read-only views. `open_folder`
takes a Hugging Face folder, one file or many with an index, and gives tensors
that are read into memory of their own one at a time. A mapped page counts as
the process's memory for as long as it is mapped, a read one does not, so that
9.5 GB of T5-XXL can pass through in a few hundred MB.
"""

import functools
import json
import os
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from imagen_jax.core import errors, files
from imagen_jax.weights.tensors import Tensor

DTYPES = {
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
# What a Hugging Face folder keeps its weights in, in the order of preference;
# the stem is "model", or what diffusers calls it.
_FILES = (".safetensors", ".fp16.safetensors")
_INDICES = (".safetensors.index.json", ".safetensors.index.fp16.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Checkpoint(NamedTuple):
  """Arrays by the file's own names, and the strings stored beside them."""

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]


class _Entry(NamedTuple):
  """A tensor of a file: what it is, and its bytes from `begin` to `end`."""

  shape: tuple[int, ...]
  dtype: np.dtype
  begin: int
  end: int


def read_safetensors(path: str | os.PathLike) -> Checkpoint:
  """Maps a safetensors file; the arrays are read-only views of it."""
  path = os.fspath(path)
  entries, metadata = _read_header(path)
  data = np.memmap(path, dtype=np.uint8, mode="r")
  arrays = {}
  for name, entry in entries.items():
    flat = data[entry.begin : entry.end].view(entry.dtype)
    arrays[name] = np.asarray(flat).reshape(entry.shape)
  return Checkpoint(arrays, metadata)


def open_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
  """The tensors of a safetensors file, each read when it is asked for."""
  path = os.fspath(path)
  entries, _ = _read_header(path)
  return {
    name: Tensor(
      entry.shape, entry.dtype, functools.partial(_read, path, entry)
    )
    for name, entry in entries.items()
  }


def open_folder(
  folder: str | os.PathLike, *, stem: str = "model"
) -> dict[str, Tensor]:
  """The tensors of a Hugging Face folder: one file, or shards and an index."""
  folder = os.fspath(folder)
  for name in _FILES:
    if os.path.exists(os.path.join(folder, stem + name)):
      return open_safetensors(os.path.join(folder, stem + name))
  for name in _INDICES:
    if os.path.exists(os.path.join(folder, stem + name)):
      return _open_shards(folder, os.path.join(folder, stem + name))
  path = os.path.join(folder, stem + _FILES[0])
  pickles = [n for n in sorted(_listing(folder)) if n.endswith(_PICKLES)]
  if pickles:
    raise errors.CheckpointError(
      f"{path} does not exist, and {pickles[0]} is a Python pickle, which can"
      " run code when it is opened; only safetensors files are read, so convert"
      " it to safetensors first."
    )
  raise errors.BadInput(
    f"{path} does not exist; give a folder that holds it, or shards with"
    f" {stem}{_INDICES[0]}."
  )


def read_json(path: str | os.PathLike) -> dict:
  """Reads a JSON object, such as the config.json beside the weights."""
  path = os.fspath(path)
  _check_exists(path)
  try:
    with open(path, "rb") as file:
      content = files.parse_json(file.read())
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


def _read_header(path: str) -> tuple[dict[str, _Entry], dict[str, str]]:
  """Where each tensor lies, in the file's order, and the metadata."""
  _check_kind(path)
  try:
    # The library validates header, offsets and file length.
    with safetensors.safe_open(path, framework="np") as file:
      metadata = dict(file.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise errors.CheckpointError(
      f"{path} is corrupt or incomplete: {_one_line(error)}; fetch it again."
    ) from error
  with open(path, "rb") as file:
    start = 8 + int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(start - 8))
  header.pop("__metadata__", None)
  entries = {}
  for name, entry in header.items():
    if entry["dtype"] not in DTYPES:
      raise errors.CheckpointError(
        f"{path}: tensor {name} has dtype {entry['dtype']},"
        f" known are {', '.join(DTYPES)}."
      )
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
    entries[name] = _Entry(shape, dtype, start + begin, start + end)
  return entries, metadata


def _read(path: str, entry: _Entry) -> np.ndarray:
  """One tensor, in memory of its own."""
  count = entry.end - entry.begin
  try:
    data = np.fromfile(path, np.uint8, count, offset=entry.begin)
  except OSError as error:
    raise errors.CheckpointError(
      f"{path} cannot be read: {_one_line(error)}."
    ) from error
  if data.size != count:
    raise errors.CheckpointError(
      f"{path} has become shorter while it was read; fetch it again."
    )
  return data.view(entry.dtype).reshape(entry.shape)


def _open_shards(folder: str, index: str) -> dict[str, Tensor]:
  """All shards, which hold what the index says, each tensor once."""
  where = read_json(index).get("weight_map")
  if not isinstance(where, dict) or not all(
    files.is_plain_name(file) for file in where.values()
  ):
    raise errors.CheckpointError(
      f"{index} has no weight_map of tensors to files beside it; fetch it"
      " again."
    )
  missing = [
    file for file in sorted(set(where.values())) if file not in _listing(folder)
  ]
  if missing:
    raise errors.CheckpointError(
      f"{folder} lacks {', '.join(missing)}, which {os.path.basename(index)}"
      " names; fetch them again."
    )
  tensors, problems = {}, []
  for file in sorted(set(where.values())):
    for name, tensor in open_safetensors(os.path.join(folder, file)).items():
      if where.get(name) == file:
        tensors[name] = tensor
      else:
        problems.append(
          f"{name} lies in {file}, the index has it in"
          f" {where.get(name, 'no file')}"
        )
  problems += [
    f"{name} is not in {file}"
    for name, file in where.items()
    if name not in tensors
  ]
  if problems:
    lines = "\n  ".join(problems)
    raise errors.CheckpointError(
      f"{index} and its files differ, {len(problems)} problem(s):\n  {lines}"
    )
  return tensors


def _listing(folder: str) -> list[str]:
  try:
    return os.listdir(folder)
  except OSError as error:
    raise errors.BadInput(
      f"{folder} cannot be read: {_one_line(error)}; give a folder."
    ) from error


def _one_line(error: Exception) -> str:
  """An exception's message without line breaks or a final stop."""
  return " ".join(str(error).split()).rstrip(".")
