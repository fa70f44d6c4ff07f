"""Every reader, given files that would run code: none runs, each is refused.

A reader may only return, or raise one of our errors; it writes nothing.
"""

import dataclasses
import io
import os
import pathlib
import pickle
import struct
import tarfile
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from etils import epath

from imagen_jax.cascade import folder as cascade_folder
from imagen_jax.core import errors, files, images
from imagen_jax.data import array_record_source, examples
from imagen_jax.data import records as records_lib
from imagen_jax.text import (
  encoders,
  store,
)
from imagen_jax.train import (
  lora,
  loss_bands,
  manifest,
  record,
)
from imagen_jax.weights import from_hf, native, readers, t5x_reader
from tests import image_files
from tests.hostile import files as hostile
from tests.hostile import reading


def test_what_is_hostile_does_harm_where_it_is_let(tmp_path, monkeypatch):
  marker, outside = tmp_path / "marker", tmp_path / "outside"
  corpus = hostile.corpus(marker, outside)
  (tmp_path / "gs").write_text(f"#!/bin/sh\necho > '{marker}'\n")
  (tmp_path / "gs").chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

  def open_npy(data: bytes) -> None:
    np.load(io.BytesIO(data), allow_pickle=True)

  def open_picture(data: bytes) -> None:
    PIL.Image.open(io.BytesIO(data)).load()

  for name, careless in {
    "pickle": pickle.loads,
    "old pickle": pickle.loads,
    "new pickle": pickle.loads,
    "npy of objects": open_npy,
    "PostScript": open_picture,
  }.items():
    try:
      careless(corpus[name])
    except OSError:
      assert name == "PostScript"  # as there is no picture in it
    assert marker.exists(), name
    marker.unlink()
  (tmp_path / "deep").mkdir()
  with tarfile.open(fileobj=io.BytesIO(corpus["tar"])) as archive:
    archive.extract("../up.txt", tmp_path / "deep")
  assert (tmp_path / "up.txt").exists()


# Lines of text say nothing but themselves.
TEXT = {
  *("old pickle", "tar", "PostScript", "Python", "YAML", "list", "null"),
  *("deep JSON", "deep JSON that ends", "number of 9,999 digits", "zeros"),
  *("header of 0", "array of 64 EiB", "offsets below 0"),
  "offsets past the end",
}
_WORDS = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"
_CLIP = b'{"<|startoftext|>":0,"<|endoftext|>":1}'


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads a folder in which `file` is hostile, and `beside` is not."""

  file: str
  read: Callable[[pathlib.Path], object]
  beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
  accepts: frozenset[str] | set[str] = frozenset()


def _of_file(read: Callable, file: str) -> Reader:
  return Reader(file, lambda folder: read(folder / file))


READERS = {
  "safetensors": _of_file(readers.read_safetensors, "a.safetensors"),
  "safetensors, lazily": _of_file(readers.open_safetensors, "a.safetensors"),
  "stage file": _of_file(cascade_folder.read_stage, "a.safetensors"),
  "stage file's parameters": _of_file(native.load_params, "a.safetensors"),
  "file to start from": Reader("a.safetensors", reading.start),
  "adapters": _of_file(lambda p: lora.load(p, base={}), "a.safetensors"),
  "cascade": Reader("cascade.json", cascade_folder.read),
  "Hugging Face config": Reader("config.json", from_hf.read),
  "Hugging Face weights": Reader(
    "model.safetensors", from_hf.read, {"config.json": b"{}"}
  ),
  "Hugging Face index": Reader(
    "model.safetensors.index.json", from_hf.read, {"config.json": b"{}"}
  ),
  "Hugging Face pickle": Reader(
    "pytorch_model.bin", from_hf.read, {"config.json": b"{}"}
  ),
  "encoder": Reader("config.json", lambda f: encoders.preview(str(f))),
  "T5X": Reader("checkpoint", t5x_reader.read),
  "T5X encoder": Reader("checkpoint", lambda f: encoders.preview(str(f))),
  "tokenizer.json": _of_file(reading.split, "tokenizer.json"),
  "tokenizer.json.gz": _of_file(reading.split, "tokenizer.json.gz"),
  "spiece.model": Reader("spiece.model", reading.split),
  "vocab.json": Reader("vocab.json", reading.split, {"merges.txt": b"#v\n"}),
  "merges.txt": Reader(
    "merges.txt", reading.split, {"vocab.json": _CLIP}, {"nothing"}
  ),
  "vocab.txt": Reader("vocab.txt", reading.split),
  "tokenizer_config.json": Reader(
    "tokenizer_config.json", reading.split, {"vocab.txt": _WORDS}
  ),
  "store": Reader("manifest.json", store.EmbeddingStore),
  "set": Reader("manifest.json", examples.open_set),
  "emoji set": Reader("manifest.json", array_record_source.ArrayRecordSource),
  "record": _of_file(lambda p: records_lib.decode(p.read_bytes()), "a"),
  "example": _of_file(lambda p: examples.decode(p.read_bytes()), "a"),
  "run.json": Reader("run.json", lambda f: record.read_run(epath.Path(f))),
  "manifest of a checkpoint": Reader(
    "4.manifest.json", lambda f: manifest.read(epath.Path(f), 4)
  ),
  "lines of JSON": Reader(
    "a.jsonl",
    lambda f: [row.keys() for row in files.read_jsonl(f / "a.jsonl")],
    accepts=set(hostile.corpus(pathlib.Path(), pathlib.Path())),
  ),
  "loss bands": _of_file(loss_bands.read, "bands.json"),
  "picture": _of_file(images.read_png, "a.png"),
  "picture of a set": Reader("a.jpg", reading.build("--images=HERE")),
  "captions of a picture": Reader(
    "a.json", reading.build("--images=HERE"), {"a.jpg": image_files.file(0)}
  ),
  "pictures in a tar": Reader("a.tar", reading.build("--images=HERE/a.tar")),
  "pictures in a tar.gz": Reader(
    "a.tar.gz", reading.build("--images=HERE/a.tar.gz")
  ),
  "pictures in Parquet": Reader(
    "a.parquet", reading.build("--images=HERE/a.parquet")
  ),
  "table beside pictures": Reader(
    "a.csv",
    reading.build("--images=HERE", "--captions=HERE/a.csv"),
    {"a.jpg": image_files.file(0)},
  ),
  **{
    f"captions{end}": Reader(
      f"a{end}", reading.captions(f"a{end}"), {}, accepts
    )
    for end, accepts in {
      ".txt": TEXT,
      ".txt.gz": {"gzipped pickle"},
      ".jsonl": set(),
      ".csv": set(),
      ".tsv": set(),
      ".parquet": set(),
      ".tar": {"tar"},
      ".tar.gz": set(),
    }.items()
  },
}


@pytest.mark.parametrize("name", READERS)
def test_a_hostile_file_is_inert_and_refused(name, sandbox):
  reader, accepted = READERS[name], set()
  for kind, content in sandbox.corpus().items():
    folder = sandbox.folder()
    given = reader.beside | {reader.file: content}
    for file, text in given.items():
      (folder / file).write_bytes(text)
    try:
      reader.read(folder)
      accepted.add(kind)
    except errors.ImagenError as error:
      assert len(str(error)) < 4000, kind
    assert image_files.contents(folder) == given, kind
  assert accepted <= reader.accepts


def test_the_header_of_a_file_may_begin_as_a_pickle_does(sandbox):
  """0x80 opens a pickle, and a header of 128 bytes, too."""
  path = sandbox.folder() / "a.safetensors"
  header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(128)
  path.write_bytes(struct.pack("<Q", 128) + header + bytes(8))
  assert path.read_bytes()[:1] == b"\x80"
  np.testing.assert_array_equal(readers.read_safetensors(path).arrays["a"], 0)
