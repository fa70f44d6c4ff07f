"""T5X checkpoints: layouts, versions, gs://, and what is torn."""

import http.server
import json
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.weights import t5x_reader
from tests import t5x_files

QUERY = "target/encoder/layers_1/attention/query/kernel"
ON_DISK = "target.encoder.layers_1.attention.query.kernel"


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
  return t5x_files.extract(tmp_path_factory.mktemp("t5x"))


@pytest.fixture
def checkpoint(golden, tmp_path):
  source = golden["f32"] / "checkpoint_0"
  return t5x_files.copy(source, tmp_path / "checkpoint_0")


def encoder(tensors):
  return {
    name: tensor
    for name, tensor in tensors.items()
    if name.startswith(("target/encoder", "target/token"))
  }


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name].read(), b[name].read())


def fails(checkpoint, name=QUERY, error=errors.CheckpointError):
  with pytest.raises(error) as caught:
    t5x_reader.read(checkpoint)[name].read()
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
def test_shapes_and_values_agree(golden, layout):
  tensors = t5x_reader.read(golden[layout] / "checkpoint_0")
  for name, tensor in encoder(tensors).items():
    values = tensor.read()
    assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype), name
    assert values.any()


def test_scanned_layers_get_the_names_of_unscanned_ones(golden):
  plain, scanned = (
    encoder(t5x_reader.read(golden[layout] / "checkpoint_0"))
    for layout in t5x_files.LAYOUTS
  )
  tables = {
    f"target/encoder/layers_{i}/relpos_bias/rel_embedding" for i in range(3)
  }
  assert scanned.keys() - plain.keys() == tables
  assert plain.keys() - scanned.keys() == {
    "target/encoder/relpos_bias/rel_embedding"
  }
  assert scanned[QUERY].shape == (48, 4, 16)


def test_a_scanned_layer_is_its_slice(golden, monkeypatch):
  checkpoint = golden["f32_scanned"] / "checkpoint_0"
  path = "target.encoder.encoder.mlp.wo.kernel"
  whole = t5x_files.stored(checkpoint, {"kvstore": {"path": path}})
  reads = []
  read_zarr = t5x_reader._read_zarr

  def counted(place, shape, dtype, index):
    reads.append(index)
    return read_zarr(place, shape, dtype, index)

  monkeypatch.setattr(t5x_reader, "_read_zarr", counted)
  # All layers at once, two at once, one at a time.
  for run_bytes, count in ((1 << 20, 1), (2 * 48 * 96 * 4, 2), (1, 3)):
    monkeypatch.setattr(t5x_reader, "_RUN_BYTES", run_bytes)
    tensors = t5x_reader.read(checkpoint)
    reads.clear()
    for i in range(3):
      layer = tensors[f"target/encoder/layers_{i}/mlp/wo/kernel"].read()
      np.testing.assert_array_equal(layer, whole[:, i])
    assert len(reads) == count
  # In any order, they are read anew.
  last, first = (
    tensors[f"target/encoder/layers_{i}/mlp/wo/kernel"].read() for i in (2, 0)
  )
  np.testing.assert_array_equal(last, whole[:, 2])
  np.testing.assert_array_equal(first, whole[:, 0])


@pytest.mark.parametrize("layout", t5x_files.LAYOUTS)
@pytest.mark.parametrize("everything", [False, True])
def test_inline_leaves_equal_stored_ones(golden, tmp_path, layout, everything):
  source = golden[layout] / "checkpoint_0"
  moved = t5x_files.copy(source, tmp_path / "checkpoint_0")
  t5x_files.inline(moved, everything=everything)
  equal(encoder(t5x_reader.read(moved)), encoder(t5x_reader.read(source)))


@pytest.mark.parametrize("version", t5x_reader.VERSIONS)
@pytest.mark.parametrize("everything", [None, True])
def test_bfloat16_of_both_versions(golden, checkpoint, version, everything):
  t5x_files.bfloat16(checkpoint, version=version)
  on_disk = json.loads((checkpoint / ON_DISK / ".zarray").read_text())
  assert on_disk["dtype"] == {2: "<u2", 3: "bfloat16"}[version]
  if everything:
    t5x_files.inline(checkpoint)
  wide = encoder(t5x_reader.read(golden["f32"] / "checkpoint_0"))
  for name, tensor in encoder(t5x_reader.read(checkpoint)).items():
    assert tensor.dtype == ml_dtypes.bfloat16
    expected = wide[name].read().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(tensor.read(), expected)


def test_arrays_of_many_chunks(golden, checkpoint):
  def split(spec):
    values = t5x_files.stored(checkpoint, spec)
    chunks = [-(-size // 3) for size in values.shape]
    return t5x_files.restore(checkpoint, spec, values, chunks)

  tree = t5x_files.map_specs(t5x_files.content(checkpoint), split)
  t5x_files.write_content(checkpoint, tree)
  whole = encoder(t5x_reader.read(golden["f32"] / "checkpoint_0"))
  equal(encoder(t5x_reader.read(checkpoint)), whole)
  (checkpoint / ON_DISK / "1.2").unlink()
  assert "chunk 1.2 is missing" in fails(checkpoint)


def test_old_and_remote_specs_are_read_where_the_checkpoint_is(
  golden, checkpoint
):
  kinds = iter(range(1000))

  def moved(spec):
    path = spec["kvstore"]["path"]
    gcs = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    return [
      spec | {"kvstore": gcs | {"path": path}},
      spec | {"kvstore": gcs, "path": path.rstrip("/")},
      spec | {"kvstore": {"driver": "gfile", "path": path}},
    ][next(kinds) % 3]

  tree = t5x_files.map_specs(t5x_files.content(checkpoint), moved)
  t5x_files.write_content(checkpoint, tree)
  expected = encoder(t5x_reader.read(golden["f32"] / "checkpoint_0"))
  equal(encoder(t5x_reader.read(checkpoint)), expected)


class FakeStorage(http.server.BaseHTTPRequestHandler):
  """The two requests of Cloud Storage that reading needs."""

  root: pathlib.Path
  base = "/storage/v1/b/bucket/o"

  def log_message(self, *args):
    pass

  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    query = urllib.parse.parse_qs(url.query)
    path = self.root / urllib.parse.unquote(url.path[len(self.base) + 1 :])
    if url.path == self.base:
      (begin,), (end,) = query["startOffset"], query["endOffset"]
      names = (
        p.relative_to(self.root).as_posix()
        for p in sorted(self.root.rglob("*"))
        if p.is_file()
      )
      items = [
        {"name": name, "generation": "1", "size": "1"}
        for name in names
        if begin <= name < end
      ]
      body = json.dumps({"items": items}).encode()
    elif url.path.startswith(self.base + "/") and path.is_file():
      body = path.read_bytes()
    else:
      self.send_error(404)
      return
    self.send_response(200)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)


def test_a_bucket_is_read_like_a_folder(golden):
  handler = type("Handler", (FakeStorage,), {"root": golden["f32"]})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f"127.0.0.1:{server.server_port}"
  # TensorStore reads these once in a process.
  environment = {
    "TENSORSTORE_GCS_HTTP_URL": f"http://{address}",
    "GCE_METADATA_ROOT": address,
    "CLOUDSDK_CONFIG": str(golden["f32"]),
  }
  code = (
    "from imagen_jax.weights import t5x_reader\n"
    "source = 'gs://bucket/checkpoint_0'\n"
    f"values = t5x_reader.read(source)[{QUERY!r}].read()\n"
    "print(values.astype('float64').sum())\n"
    "try: t5x_reader.read('gs://bucket/none')\n"
    "except Exception as error: print(error)"
  )
  try:
    result = subprocess.run(
      [sys.executable, "-c", code],
      env=environment,
      cwd=pathlib.Path(t5x_reader.__file__).parents[2],
      capture_output=True,
      text=True,
      timeout=60,
      check=True,
    )
  finally:
    server.shutdown()
    server.server_close()
  total, message = result.stdout.strip().split("\n")
  local = t5x_reader.read(golden["f32"] / "checkpoint_0")[QUERY].read()
  assert float(total) == local.astype(np.float64).sum()
  assert "gs://bucket/none/checkpoint does not exist" in message


def test_the_place_of_a_bucket():
  assert t5x_reader.kvstore("gs://a/b/c/") == {
    "driver": "gcs",
    "bucket": "a",
    "path": "b/c/",
  }


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
  message = fails(tmp_path, error=errors.BadInput)
  assert "checkpoint does not exist; give a T5X directory" in message


@pytest.mark.parametrize("keep", [0, 1, 100, 20_000])
def test_a_truncated_msgpack_file(checkpoint, keep):
  path = checkpoint / "checkpoint"
  path.write_bytes(path.read_bytes()[:keep])
  message = fails(checkpoint)
  assert message.startswith(f"{path} is corrupt, incomplete or out of reach")


@pytest.mark.parametrize("version", [None, 0, 1, 4])
def test_other_versions_are_refused(checkpoint, version):
  tree = t5x_files.content(checkpoint)
  if version is None:
    del tree["version"]
  else:
    tree["version"] = version
  t5x_files.write_content(checkpoint, tree)
  assert f"version {version or 0}; versions 2 and 3 are" in fails(checkpoint)


@pytest.mark.parametrize("file", ["0.0", ".zarray"])
def test_missing_files_of_an_array_are_named(checkpoint, file):
  (checkpoint / ON_DISK / file).unlink()
  message = fails(checkpoint)
  assert ON_DISK in message
  assert ("chunk 0.0 is missing" in message) == (file == "0.0")
  # The others are still there.
  t5x_reader.read(checkpoint)["target/encoder/encoder_norm/scale"].read()


@pytest.mark.parametrize("file", ["0.0", ".zarray"])
def test_a_truncated_file_of_an_array_is_named(checkpoint, file):
  path = checkpoint / ON_DISK / file
  path.write_bytes(path.read_bytes()[:-20])
  assert ON_DISK in fails(checkpoint)


def test_a_flipped_bit_of_a_chunk_is_seen(checkpoint):
  path = checkpoint / ON_DISK / "0.0"
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 1
  path.write_bytes(raw)
  assert ON_DISK in fails(checkpoint)


def test_an_array_of_another_shape_or_dtype_is_seen(checkpoint):
  spec = {"kvstore": {"path": ON_DISK}}
  values = t5x_files.stored(checkpoint, spec)
  t5x_files.restore(checkpoint, spec, values[:, :-1])
  assert "it is (48, 63) float32, the msgpack file has (48, 64)" in fails(
    checkpoint
  )
  t5x_files.restore(checkpoint, spec, values.astype(np.float16))
  assert "it is (48, 64) float16" in fails(checkpoint)


@pytest.mark.parametrize(
  "change",
  [
    {"driver": "n5"},
    {"kvstore": {"driver": "file"}},
    {"kvstore": {"driver": "file", "path": "/etc"}},
    {"kvstore": {"driver": "file", "path": "a/../../b"}},
    {"metadata": {}},
    {"dtype": "float128x"},
  ],
)
def test_an_unknown_spec_is_refused(checkpoint, change):
  tree = t5x_files.map_specs(
    t5x_files.content(checkpoint), lambda spec: spec | change
  )
  t5x_files.write_content(checkpoint, tree)
  assert "unknown array spec" in fails(checkpoint)


@pytest.mark.parametrize("shape", [[48], [48, 0]])
def test_a_scanned_array_without_layers_is_refused(golden, tmp_path, shape):
  source = golden["f32_scanned"] / "checkpoint_0"
  checkpoint = t5x_files.copy(source, tmp_path / "scanned")
  tree = t5x_files.map_specs(
    t5x_files.content(checkpoint),
    lambda spec: spec | {"metadata": spec["metadata"] | {"shape": shape}},
  )
  t5x_files.write_content(checkpoint, tree)
  assert "holds no layers" in fails(checkpoint)
