"""Writes an encoder as a Hugging Face folder, one tensor in memory at a time.

  config.json
  model.safetensors, or model-00001-of-0000n.safetensors ... and an index

Sizes are known from shapes, so a shard's header is written before its data. The
folder is made under another name and renamed: it is there whole or not at all.
config.json keeps the fingerprint of the tensors, which `from_hf` compares when
it has read them: a flipped bit is found.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping

import numpy as np
from jaxtyping import DTypeLike

from imagen_jax.core import errors, files
from imagen_jax.weights import readers
from imagen_jax.weights import tensors as tensors_lib
from imagen_jax.weights.tensors import Tensor

# A field of config.json: safetensors have no checksum of their own.
FINGERPRINT = "imagen_jax_fingerprint"

_CODES = {dtype: code for code, dtype in readers.DTYPES.items()}
_ENCODERS = {
  "t5": "T5EncoderModel",
  "mt5": "MT5EncoderModel",
  "umt5": "UMT5EncoderModel",
}


def write_hf_folder(
  tensors: Mapping[str, Tensor],
  config: Mapping[str, object],
  out: str | os.PathLike,
  dtype: DTypeLike,
  *,
  beside: Mapping[str, bytes] | None = None,
  max_shard_bytes: int = 5 << 30,
) -> None:
  """Writes `tensors`, cast to `dtype`, and `config` as the folder `out`.

  `beside` are further small files, by name: the tokenizer's.
  """
  out = os.path.abspath(out)
  dtype = _known(dtype)
  if os.path.exists(out):
    raise errors.BadInput(f"{out} exists already; give a new folder's path.")
  parent, name = os.path.split(out)
  files.check_writable(parent)
  temporary = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
  os.makedirs(temporary)
  try:
    digests = _write_shards(tensors, temporary, dtype, max_shard_bytes)
    content = _config(config, dtype) | {
      FINGERPRINT: tensors_lib.fingerprint(digests)
    }
    files.write_json(os.path.join(temporary, "config.json"), content)
    for file, data in (beside or {}).items():
      files.atomic_write(os.path.join(temporary, file), data)
    os.replace(temporary, out)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _known(dtype: DTypeLike) -> np.dtype:
  dtype = np.dtype(dtype)
  names = ("float32", "float16", "bfloat16")
  if dtype.name not in names:
    raise errors.BadInput(
      f"weights cannot be written in {dtype.name}; use one of {names}."
    )
  return dtype


def _config(config: Mapping[str, object], dtype: np.dtype) -> dict[str, object]:
  """The config of the encoder alone, in this dtype."""
  encoder = _ENCODERS.get(config.get("model_type"))
  changes = {"torch_dtype": dtype.name}
  if encoder:
    changes |= {"architectures": [encoder], "is_encoder_decoder": False}
  kept = {key: value for key, value in config.items() if key != "dtype"}
  return kept | changes


def _write_shards(
  tensors: Mapping[str, Tensor], folder: str, dtype: np.dtype, limit: int
) -> dict[str, str]:
  """Returns the digest of each tensor as it was written."""
  shards: list[dict[str, Tensor]] = [{}]
  total = size = 0
  for name, tensor in tensors.items():
    nbytes = _nbytes(tensor, dtype)
    if shards[-1] and size + nbytes > limit:
      shards.append({})
      size = 0
    shards[-1][name] = tensor
    size += nbytes
    total += nbytes
  if len(shards) == 1:
    path = os.path.join(folder, "model.safetensors")
    return _write_file(path, shards[0], dtype)
  where: dict[str, str] = {}
  digests: dict[str, str] = {}
  for i, shard in enumerate(shards, start=1):
    file = f"model-{i:05}-of-{len(shards):05}.safetensors"
    digests |= _write_file(os.path.join(folder, file), shard, dtype)
    where |= dict.fromkeys(shard, file)
  index = {"metadata": {"total_size": total}, "weight_map": where}
  files.write_json(os.path.join(folder, "model.safetensors.index.json"), index)
  return digests


def _write_file(
  path: str, tensors: Mapping[str, Tensor], dtype: np.dtype
) -> dict[str, str]:
  """A safetensors file: length of the header, header, data without holes."""
  header: dict[str, object] = {"__metadata__": {"format": "pt"}}
  begin = 0
  for name, tensor in tensors.items():
    end = begin + _nbytes(tensor, dtype)
    header[name] = {
      "dtype": _CODES[dtype],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
    begin = end
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    digests = {}
    for name, tensor in tensors.items():
      values = np.ascontiguousarray(tensor.read().astype(dtype, copy=False))
      digests[name] = tensors_lib.digest(values)
      file.write(values.reshape(-1).view(np.uint8))
  return digests


def _nbytes(tensor: Tensor, dtype: np.dtype) -> int:
  return int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
