"""Archives as torch.save writes, made without torch, good and bad."""

import io
import struct
import zipfile
from typing import NamedTuple

import numpy as np

STORAGES = {
  "float64": "DoubleStorage",
  "float32": "FloatStorage",
  "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage",
  "int64": "LongStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}


class Global(NamedTuple):
  """A name that the pickle asks for."""

  module: str
  name: str


class Call(NamedTuple):
  """A call of what a name stands for."""

  function: Global
  args: tuple


class Module(NamedTuple):
  """An object of TorchScript: its class, and its attributes."""

  kind: Global
  state: object


class Raw(NamedTuple):
  """Opcodes as they are."""

  code: bytes


class Storage(NamedTuple):
  """A reference to ROOT/data/KEY."""

  kind: str
  key: object
  count: object


def encode(value) -> bytes:
  """The opcodes of protocol 2 that leave `value` on the stack."""
  if isinstance(value, Raw):
    return value.code
  if isinstance(value, Global):
    return f"c{value.module}\n{value.name}\n".encode()
  if isinstance(value, Call):
    return encode(value.function) + encode(value.args) + b"R"
  if isinstance(value, Module):
    return encode(value.kind) + b")\x81" + encode(value.state) + b"b"
  if isinstance(value, Storage):
    kind = Global("torch", value.kind)
    return encode(("storage", kind, value.key, "cpu", value.count)) + b"Q"
  if value is None:
    return b"N"
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data
  if isinstance(value, float):
    return b"G" + struct.pack(">d", value)
  if isinstance(value, str):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
  if isinstance(value, tuple):
    return b"(" + b"".join(map(encode, value)) + b"t"
  if isinstance(value, list):
    return b"](" + b"".join(map(encode, value)) + b"e"
  items = b"".join(encode(k) + encode(v) for k, v in value.items())
  return b"}(" + items + b"u"


def view(storage, shape, strides, offset=0):
  """A tensor over a storage."""
  hooks = Call(Global("collections", "OrderedDict"), ())
  args = (storage, offset, tuple(shape), tuple(strides), False, hooks)
  return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)


def tensor(array: np.ndarray, key: str):
  """A whole, contiguous storage as a tensor."""
  strides = [s // array.itemsize for s in array.strides]
  kind = STORAGES[array.dtype.name]
  return view(Storage(kind, key, array.size), array.shape, strides)


def write(path, content, storages=(), *, root="archive", extra=()):
  """An archive of a content and of storages [array, ...], by their index."""
  with zipfile.ZipFile(path, "w") as file:
    file.writestr(f"{root}/data.pkl", b"\x80\x02" + encode(content) + b".")
    for key, array in enumerate(storages):
      file.writestr(f"{root}/data/{key}", np.ascontiguousarray(array).tobytes())
    for name, data in extra:
      file.writestr(name, data)


def save(path, arrays):
  """As torch.save writes a dictionary of tensors."""
  content = {
    name: tensor(array, str(i))
    for i, (name, array) in enumerate(arrays.items())
  }
  write(path, content, arrays.values())


def legacy() -> bytes:
  """The first bytes of a file by torch before 1.6."""
  buffer = io.BytesIO()
  buffer.write(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
  return buffer.getvalue()
