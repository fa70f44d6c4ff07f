"""Files that would run code, write elsewhere, or lie about themselves.

All of them mean to make `marker`, or a file below `outside`.
"""

import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import zipfile

import msgpack
import numpy as np
import pyarrow as pa
from pyarrow import parquet

DEEP = 100_000  # brackets: more than any stack holds


class Payload:
  """Unpickling it makes the marker."""

  def __init__(self, marker: pathlib.Path):
    self.marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self.marker,)


def corpus(marker: pathlib.Path, outside: pathlib.Path) -> dict[str, bytes]:
  """Contents by name, to be given to readers of all kinds."""
  payload = Payload(marker)
  pickled = pickle.dumps(payload, protocol=2)
  files = {
    "pickle": pickled,
    "old pickle": pickle.dumps(payload, protocol=0),
    "new pickle": pickle.dumps(payload, protocol=5),
    "gzipped pickle": gzip.compress(pickled),
    "npy of objects": npy(payload),
    "npz of objects": npz(payload),
    "torch.save": _zip({"archive/data.pkl": pickled, "archive/version": b"3"}),
    "zip slip": _zip({f"../../{marker.name}": b"", f"{marker}": b""}),
    "msgpack of ext types": _msgpack(pickled),
    "tar": tar(outside, b""),
    "parquet of pickles": _parquet(pickled),
    "PostScript": postscript(),
    "Python": f"open({str(marker)!r}, 'w')".encode(),
    "YAML": f"!!python/object/apply:os.system ['touch {marker}']".encode(),
  }
  lies = {
    "header of 8 EiB": struct.pack("<Q", 2**63 - 1) + b"{}",
    "header of 99 MB": struct.pack("<Q", 99_000_000) + b"{}",
    "header of 0": struct.pack("<Q", 0),
    "array of 64 EiB": _safetensors(shape=[2**62, 4], data_offsets=[0, 8]),
    "offsets below 0": _safetensors(shape=[1], data_offsets=[-4, 0]),
    "offsets past the end": _safetensors(shape=[9], data_offsets=[0, 36]),
    "deep JSON": b"[" * DEEP + b"\n",
    "deep JSON that ends": b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"\n",
    "number of 9,999 digits": b'{"a":' + b"9" * 9_999 + b"}\n",
    "list": b"[1]",
    "null": b"null",
    "nothing": b"",
    "zeros": bytes(2048),
  }
  return files | lies


def npy(value: object) -> bytes:
  """An array of one object, which only a pickle can hold."""
  buffer = io.BytesIO()
  np.save(buffer, np.array([value], object), allow_pickle=True)
  return buffer.getvalue()


def npz(value: object) -> bytes:
  """An archive of such an array."""
  buffer = io.BytesIO()
  np.savez(buffer, a=np.array([value], object))
  return buffer.getvalue()


def postscript() -> bytes:
  """A picture that Pillow hands to a program."""
  return (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    b"%%Page: 1 1\nshowpage\n%%EOF\n"
  )


def tar(outside: pathlib.Path, image: bytes) -> bytes:
  """Each way in which a tar writes elsewhere, and then an honest sample."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:

    def add(name: str, data: bytes = b"", **fields) -> None:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      for field, value in fields.items():
        setattr(info, field, value)
      archive.addfile(info, io.BytesIO(data))

    add("link", type=tarfile.SYMTYPE, linkname=str(outside))
    for name in ("../up", f"{outside}/absolute", "link/through", "good"):
      add(f"{name}.jpg", image)
      add(f"{name}.txt", name.rpartition("/")[2].encode())
    add("soft.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    add("hard.jpg", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    add("device.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
    add("disk.jpg", type=tarfile.BLKTYPE, devmajor=8)
    add("pipe.jpg", type=tarfile.FIFOTYPE)
  return buffer.getvalue()


def tar_of_header(**pax: str) -> bytes:
  """A tar of one file with these fields in its extended header."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as t:
    info = tarfile.TarInfo("a.txt")
    info.size, info.pax_headers = 5, pax
    t.addfile(info, io.BytesIO(b"hello"))
  return buffer.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return buffer.getvalue()


def _msgpack(pickled: bytes) -> bytes:
  """A T5X checkpoint whose leaves are arrays of objects, and worse."""
  objects = msgpack.packb(((1,), "object", pickled))
  leaves = {
    "own": msgpack.ExtType(77, pickled),
    "array": msgpack.ExtType(1, objects),
    "scalar": msgpack.ExtType(3, objects),
    "complex": msgpack.ExtType(2, b"\xc1"),
  }
  return t5x(leaves)


def t5x(leaves: dict) -> bytes:
  """The msgpack file of a T5X checkpoint."""
  return msgpack.packb({"version": 3, "optimizer": {"target": leaves}})


def t5x_array(dtype: object, shape: object = (2,)) -> msgpack.ExtType:
  """An array of such a file."""
  return msgpack.ExtType(1, msgpack.packb((shape, dtype, bytes(8))))


def _parquet(pickled: bytes) -> bytes:
  """A column of an extension type that old readers unpickle by themselves."""
  field = pa.field(
    "caption",
    pa.binary(),
    metadata={
      b"ARROW:extension:name": b"arrow.py_extension_type",
      b"ARROW:extension:metadata": pickled,
    },
  )
  table = pa.table([pa.array([b"\xff"])], schema=pa.schema([field]))
  buffer = io.BytesIO()
  parquet.write_table(table, buffer)
  return buffer.getvalue()


def _safetensors(**entry) -> bytes:
  header = json.dumps({"a": {"dtype": "F32"} | entry}).encode()
  return struct.pack("<Q", len(header)) + header + bytes(8)
