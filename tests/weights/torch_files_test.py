"""torch archives: what was saved is read, and nothing else is done."""

import os
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.weights import torch_files
from tests import torch_archives as archives
from tests.torch_archives import Call, Global, Module, Raw, Storage

DRAW = np.random.default_rng(0)
ARRAYS = {
  "conv.weight": DRAW.normal(size=(4, 3, 2, 2)).astype(np.float32),
  "conv.half": DRAW.normal(size=(5,)).astype(np.float16),
  "norm.bfloat": DRAW.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
  "norm.count": np.array(7, np.int64),
  "mask": np.array([True, False]),
  "empty": np.zeros((0, 3), np.float64),
}


@pytest.fixture
def path(tmp_path):
  return tmp_path / "weights.pt"


def read(path):
  return {n: t.read() for n, t in torch_files.open_torch(path).items()}


def test_what_was_saved_is_read(path):
  archives.save(path, ARRAYS)
  opened = torch_files.open_torch(path)
  assert list(opened) == list(ARRAYS)
  for name, tensor in opened.items():
    assert tensor.shape == ARRAYS[name].shape
    assert tensor.dtype == ARRAYS[name].dtype
    values = tensor.read()
    assert values.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(values, ARRAYS[name])
    assert values.flags.writeable


def test_views_share_a_storage(path):
  numbers = np.arange(12, dtype=np.float32)
  storage = Storage("FloatStorage", "0", 12)
  content = {
    "transposed": archives.view(storage, (4, 3), (1, 4)),
    "column": archives.view(storage, (3,), (4,), 2),
  }
  archives.write(path, content, [numbers])
  found = read(path)
  np.testing.assert_array_equal(found["transposed"], numbers.reshape(3, 4).T)
  np.testing.assert_array_equal(found["column"], numbers[2::4])


def test_a_module_of_torchscript_is_its_attributes(path):
  weight = np.arange(6, dtype=np.float32).reshape(2, 3)
  inner = Module(
    Global("__torch__.net", "Conv"),
    {"weight": archives.tensor(weight, "0"), "training": False, "stride": 2},
  )
  sizes = Call(Global("torch.jit._pickle", "build_intlist"), ([1, 2],))
  outer = Module(
    Global("__torch__", "Net"), {"layers": [inner, inner], "size": sizes}
  )
  archives.write(path, outer, [weight], root="out_jit_module")
  found = read(path)
  assert list(found) == ["layers.0.weight", "layers.1.weight"]
  np.testing.assert_array_equal(found["layers.1.weight"], weight)


def test_a_parameter_is_its_tensor(path):
  bias = np.arange(3, dtype=np.float32)
  content = {
    "bias": Call(
      Global("torch._utils", "_rebuild_parameter"),
      (archives.tensor(bias, "0"), True, {}),
    ),
    "step": 3,
    "name": "Adam",
    "rate": 0.1,
  }
  archives.write(path, content, [bias])
  np.testing.assert_array_equal(read(path)["bias"], bias)


@pytest.mark.parametrize(
  ("module", "name"),
  [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("torch", "load"),
    ("torch._utils", "_import_dotted_name"),
    ("numpy", "load"),
    ("imagen_jax.core.files", "atomic_write"),
    ("collections", "namedtuple"),
    ("torch.jit._pickle", "restore_type_tag"),
  ],
)
def test_no_other_name_is_called(path, monkeypatch, module, name):
  called = []
  monkeypatch.setattr(os, "system", called.append)
  archives.write(path, {"x": Call(Global(module, name), ("true",))})
  with pytest.raises(
    errors.CheckpointError, match=f"names {module}.{name}, which may run code"
  ) as caught:
    torch_files.open_torch(path)
  assert not called
  assert "\n" not in str(caught.value)


def test_a_file_cannot_change_the_reader(path):
  # BUILD with a pair sets attributes, here of what rebuilds the next tensor.
  function = archives.encode(Global("torch._utils", "_rebuild_tensor"))
  spoiled = Raw(
    function + archives.encode((None, {"__defaults__": (1, 2)})) + b"b"
  )
  archives.write(path, {"x": spoiled})
  with pytest.raises(errors.CheckpointError):
    torch_files.open_torch(path)
  kind = archives.encode(Global("__torch__", "A"))
  spoiled = Raw(kind + archives.encode((None, {"pop": None})) + b"b")
  archives.write(path, {"x": spoiled})
  with pytest.raises(errors.CheckpointError):
    torch_files.open_torch(path)
  archives.save(path, ARRAYS)
  assert len(read(path)) == len(ARRAYS)


@pytest.mark.parametrize(
  ("shape", "strides", "offset"),
  [
    ((13,), (1,), 0),
    ((12,), (1,), 1),
    ((3, 4), (5, 1), 0),
    ((1 << 40,), (0,), 0),  # the same number, a terabyte of it
    ((13,), (0,), 0),
    ((2,), (1,), -1),
    ((-2, -2), (1, 1), 0),
    ((2,), (-1,), 3),
    ((2, 2), (1,), 0),
    ((2.0,), (1,), 0),
    ((True,), (1,), 0),
    (("2",), (1,), 0),
    ((1 << 70,), (1,), 0),
  ],
)
def test_a_view_stays_in_its_storage(path, shape, strides, offset):
  storage = Storage("FloatStorage", "0", 12)
  content = {"x": archives.view(storage, shape, strides, offset)}
  archives.write(path, content, [np.zeros(12, np.float32)])
  with pytest.raises(errors.CheckpointError, match="was not read"):
    torch_files.open_torch(path)


@pytest.mark.parametrize(
  ("storage", "message"),
  [
    (Storage("FloatStorage", "0", 11), "48 bytes, expected 11 x 4"),
    (Storage("DoubleStorage", "0", 12), "48 bytes, expected 12 x 8"),
    (Storage("FloatStorage", "1", 12), "data/1 is missing"),
    (Storage("FloatStorage", "../data.pkl", 12), "data.pkl is missing"),
    (Storage("FloatStorage", "0", -1), "expected -1 x 4"),
    (Storage("FloatStorage", 0, 12), "a storage is"),
    (Storage("QInt8Storage", "0", 12), "names torch.QInt8Storage"),
    ("no storage", "a tensor has no storage"),
  ],
)
def test_a_storage_is_as_large_as_it_says(path, storage, message):
  content = {"x": archives.view(storage, (2,), (1,))}
  archives.write(path, content, [np.zeros(12, np.float32)])
  with pytest.raises(errors.CheckpointError, match=message):
    torch_files.open_torch(path)


def test_what_holds_itself_ends(path):
  # A dictionary under a memo number, with itself as a value.
  archives.write(path, Raw(b"}q\x00" + archives.encode("x") + b"h\x00s"))
  with pytest.raises(errors.CheckpointError, match="nests too deeply"):
    torch_files.open_torch(path)


def test_what_holds_one_thing_twice_and_so_on_ends(path):
  code = b"]"
  for _ in range(45):  # 2^45 names
    code += b"q\x00](h\x00h\x00e"
  archives.write(path, Raw(code))
  with pytest.raises(errors.CheckpointError, match="nests too deeply"):
    torch_files.open_torch(path)


def test_damage_anywhere_is_found_or_harmless(path):
  archives.save(path, ARRAYS)
  whole = path.read_bytes()
  draw = random.Random(0)
  refused = 0
  for _ in range(300):
    data = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
      data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data[: draw.choice([None, None, draw.randrange(4000)])])
    try:
      read(path)
    except errors.CheckpointError as error:
      assert "\n" not in str(error)
      refused += 1
  assert refused > 200


@pytest.mark.parametrize(
  "content",
  [b"", b"PK", b"\0" * 100, archives.legacy()],
  ids=["empty", "short", "zeros", "legacy"],
)
def test_other_files_are_refused(path, content):
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError, match=r"not a zip.*torch >= 1\.6"):
    torch_files.open_torch(path)


def test_other_archives_are_refused(path, tmp_path):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("a.txt", "a")
  with pytest.raises(errors.CheckpointError, match=r"0 files ROOT/data\.pkl"):
    torch_files.open_torch(path)
  archives.write(path, {}, extra=[("archive/byteorder", b"big")])
  with pytest.raises(errors.CheckpointError, match="byte order is b'big'"):
    torch_files.open_torch(path)
  archives.write(path, {"epoch": 3})
  with pytest.raises(errors.CheckpointError, match="holds no tensors"):
    torch_files.open_torch(path)
  with pytest.raises(errors.BadInput, match="does not exist"):
    torch_files.open_torch(tmp_path / "other.pt")


def test_a_pickle_that_is_too_large_is_not_read(path, monkeypatch):
  archives.save(path, ARRAYS)
  monkeypatch.setattr(torch_files, "_MAX_PICKLE", 100)
  with pytest.raises(errors.CheckpointError, match="at most 100 are read"):
    torch_files.open_torch(path)


def test_a_file_that_changes_underway_is_one_line(path):
  archives.save(path, ARRAYS)
  opened = torch_files.open_torch(path)
  path.write_bytes(b"gone")
  with pytest.raises(errors.CheckpointError, match="is damaged"):
    opened["mask"].read()
