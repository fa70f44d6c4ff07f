"""Tars, T5X checkpoints and tokenizers that break the library they are for."""

import json
import tarfile

import pytest

from imagen_jax.cli import main
from imagen_jax.core import errors
from imagen_jax.data import examples
from imagen_jax.weights import t5x_reader
from tests import image_files
from tests.hostile import files as hostile
from tests.hostile import reading

ODD_ARRAYS = [
  *(b"object", b"O", b"(f4", b"f4,(", b"V-1", b"M8[xx]", b"{'names':['a']}"),
  *(7, None, [b"f4"], "é", b"f4" * 5000),
]


@pytest.mark.parametrize(
  "content",
  [
    *(hostile.t5x({"a": hostile.t5x_array(d)}) for d in ODD_ARRAYS),
    hostile.t5x({"a": hostile.t5x_array(b"float32", (-1, 2**60))}),
    hostile.t5x({"a": hostile.t5x_array(b"float32", "x")}),
    b"\x81\xa1a" * 100_000,
    b"\x81\xa7version"
    + bytes([0xC7, 24, 1, 0x93, 0x91, 2, 0xC4, 5])
    + b"int32"
    + b"\xc4\x08"
    + bytes(11),
  ],
  ids=range(len(ODD_ARRAYS) + 4),
)
def test_odd_arrays_of_a_t5x_checkpoint_are_refused(sandbox, content):
  folder = sandbox.folder()
  (folder / "checkpoint").write_bytes(content)
  with pytest.raises(errors.CheckpointError):
    t5x_reader.read(folder)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x", 3, None, "x\0"])
def test_an_array_of_a_t5x_checkpoint_lies_in_it(sandbox, path):
  spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
  spec |= {"metadata": {"shape": [2]}, "dtype": "float32"}
  folder = sandbox.folder()
  (folder / "checkpoint").write_bytes(hostile.t5x({"a": spec}))
  with pytest.raises(errors.CheckpointError):
    t5x_reader.read(folder)["target/a"].read()


TAR_FIELDS = [
  *({"size": "-5"}, {"size": "9" * 30}, {"size": "x"}),
  {"GNU.sparse.map": "a,b"},
  {"GNU.sparse.map": "0,1", "GNU.sparse.size": "x"},
  {"GNU.sparse.map": "0,5", "GNU.sparse.size": "9" * 12},
  {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
]


@pytest.mark.parametrize("fields", TAR_FIELDS, ids=str)
def test_a_tar_whose_header_lies_is_refused_at_once(sandbox, fields):
  path = sandbox.folder() / "a.tar"
  path.write_bytes(hostile.tar_of_header(**fields))
  for read in (reading.captions("a.tar"), reading.build("--images=HERE/a.tar")):
    with pytest.raises(errors.DataError):
      read(path.parent)


def test_a_tar_of_ten_thousand_names_of_names_is_refused(sandbox):
  info = tarfile.TarInfo("././@LongLink")
  info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
  block = info.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")
  path = sandbox.folder() / "a.tar"
  path.write_bytes(block * 10_000)
  for read in (reading.captions("a.tar"), reading.build("--images=HERE/a.tar")):
    with pytest.raises(errors.DataError, match="recursion"):
      read(path.parent)


def test_a_tar_that_escapes_becomes_a_set_in_its_folder(sandbox, capsys):
  archive, out = sandbox.folder() / "a.tar", sandbox.folder()
  archive.write_bytes(hostile.tar(sandbox.outside, image_files.file(0)))
  argv = ["data", "build", f"--images={archive}", f"--out={out}"]
  assert main.main(argv) == 0
  source = examples.open_set(out, checked=True)
  captions = [source[i].caption for i in range(len(source))]
  assert captions == ["up", "absolute", "through", "good"]
  assert {path.suffix for path in out.iterdir()} <= {
    ".array_record", ".json", ".jsonl",
  }  # fmt: skip


@pytest.mark.parametrize(
  "part",
  [
    {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}},
    {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 5}},
    {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}},
    {"added_tokens": 3},
  ],
  ids=str,
)
def test_a_tokenizer_that_breaks_its_library_is_refused(sandbox, part):
  vocabulary = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
  content = {"version": "1.0", "added_tokens": [], "model": vocabulary}
  path = sandbox.folder() / "tokenizer.json"
  path.write_text(json.dumps(content))
  reading.split(path)
  path.write_text(json.dumps(content | part))
  with pytest.raises(errors.CheckpointError, match="corrupt or no tokenizer"):
    reading.split(path)
