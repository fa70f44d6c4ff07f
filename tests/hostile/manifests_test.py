"""What a file says of other files, or of itself, is not believed."""

import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from imagen_jax import build
from imagen_jax.cascade import folder as cascade_folder
from imagen_jax.cli import main
from imagen_jax.core import errors, files
from imagen_jax.data import examples
from imagen_jax.text import store, store_index, store_parts
from imagen_jax.train import checkpoints, manifest
from imagen_jax.weights import from_hf, native, readers
from tests import image_files, image_sets, tiny_cascade
from tests.hostile import files as hostile
from tests.hostile import reading
from tests.text import hashed_job
from tests.train import states

PATHS = ["../other/{}", "{}/../{}", "{root}/other/{}", "..", "", ".", "{}\0"]


@pytest.mark.parametrize("path", PATHS)
def test_a_manifest_of_a_set_names_files_beside_it(sandbox, path):
  folder = image_sets.write(sandbox.folder(), image_sets.make(3), shards=1)
  other = sandbox.root / "other"
  sandbox.folders.append("other")
  shutil.copytree(folder, other)
  content = json.loads((folder / "manifest.json").read_text())
  file = content["shards"][0]["file"]
  content["shards"][0]["file"] = path.format(file, file, root=sandbox.root)
  (folder / "manifest.json").write_text(json.dumps(content))
  with pytest.raises(errors.DataError, match="not a manifest of shards"):
    examples.open_set(folder)
  assert main.main(["data", "verify", str(folder)]) == 4
  assert len(examples.open_set(other)) == 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  out = tmp_path_factory.mktemp("store")
  hashed_job.run(out, hashed_job.captions(10), shard_size=20)
  return out


def _change(folder: pathlib.Path, kind: str, line: int, **fields) -> dict:
  """Changes a line of a store's manifest; returns what it was."""
  content = json.loads((folder / "manifest.json").read_text())
  before = dict(content[kind][line])
  content[kind][line] |= fields
  (folder / "manifest.json").write_text(json.dumps(content))
  return before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["shards", "indexes"])
def test_a_manifest_of_a_store_names_files_beside_it(sandbox, made, kind, path):
  for name in ("store", "other"):
    sandbox.folders.append(name)
    shutil.copytree(made, sandbox.root / name)
  folder = sandbox.root / "store"
  file = _change(folder, kind, 0)["file"]
  path = path.format(file, file, root=sandbox.root)
  _change(folder, kind, 0, file=path)
  with pytest.raises(errors.DataError, match="not the manifest"):
    store.EmbeddingStore(folder)


@pytest.mark.parametrize("field", ["records", "tokens", "bytes"])
@pytest.mark.parametrize("value", [-1, "1", 1.5, None, [3]])
def test_numbers_of_a_manifest_are_numbers(sandbox, made, field, value):
  sandbox.folders.append("store")
  folder = shutil.copytree(made, sandbox.root / "store")
  _change(folder, "shards", 0, **{field: value})
  with pytest.raises(errors.DataError, match="not the manifest"):
    store.EmbeddingStore(folder)


def _put_index(folder: pathlib.Path, line: int, content: bytes) -> None:
  """An index whose size and digest agree with the manifest."""
  name = _change(folder, "indexes", line)["file"]
  (folder / name).write_bytes(content)
  digest = files.sha256_file(folder / name)
  _change(folder, "indexes", line, bytes=len(content), sha256=digest)


def test_an_index_of_a_store_is_no_pickle(sandbox, made):
  for kind, content in sandbox.corpus().items():
    folder = sandbox.folder()
    shutil.copytree(made, folder, dirs_exist_ok=True)
    _put_index(folder, 0, content)
    with pytest.raises(errors.DataError, match="captions.npy"):
      store.EmbeddingStore(folder)
      pytest.fail(kind)


@pytest.mark.parametrize("record", [-1, -(2**63), 7, 2**63 - 1])
def test_an_index_points_into_its_store(sandbox, made, record):
  sandbox.folders.append("store")
  folder = shutil.copytree(made, sandbox.root / "store")
  array = np.load(folder / "examples.npy")
  assert array.max() == 6
  array[3] = record
  buffer = io.BytesIO()
  np.save(buffer, array)
  _put_index(folder, 2, buffer.getvalue())
  opened = store.EmbeddingStore(folder)
  assert opened[2].shape[1] == hashed_job.WIDTH
  with pytest.raises(errors.DataError, match="records that are not there"):
    opened[3]


def test_a_store_that_goes_on_takes_no_shard_from_elsewhere(sandbox, made):
  sandbox.folders.append("store")
  folder = sandbox.root / "store"
  (folder / ".parts").mkdir(parents=True)
  shard = json.loads((made / "manifest.json").read_text())["shards"][0]
  shard["file"] = str(made / shard["file"])
  (folder / ".parts" / "00000.json").write_text(json.dumps(shard))
  digests = store_index.digests(hashed_job.captions(10))
  unfinished = store_parts.Unfinished(
    folder, "host", {"shard_size": 20}, digests, *store_index.build(digests)
  )
  assert unfinished.line(0, checked=True) is None


@pytest.mark.parametrize(
  "path", ["../base.safetensors", "/etc/passwd", "..", "base.safetensors\0"]
)
def test_a_cascade_and_an_index_name_files_beside_them(sandbox, path):
  folder = sandbox.folder()
  manifest_of = {"format": "imagen_jax cascade", "version": 1, "encoder": "a"}
  content = manifest_of | {"max_length": 3, "stages": [{"file": path}]}
  (folder / "cascade.json").write_text(json.dumps(content))
  with pytest.raises(errors.ImagenError):
    cascade_folder.read(folder)
  (folder / "config.json").write_text('{"model_type": "bert"}')
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": path}}))
  with pytest.raises(errors.CheckpointError, match="no weight_map"):
    from_hf.read(folder)


@pytest.mark.parametrize(
  ("group", "text"),
  [
    ("stage", "{'name': 'base', 'resolution': 16, 'low_resolution': 0}"),
    ("stage", "__import__('os').abort()"),
    ("stage", "[" * hostile.DEEP),
    ("stage", "[]"),
    ("stage", '{"name": ["base"], "resolution": 16, "low_resolution": 0}'),
    ("stage", '{"name": "base", "resolution": "16", "low_resolution": 0}'),
    ("text", "dict(encoder='minilm', max_length=24)"),
    ("text", '{"encoder": {}, "max_length": 24}'),
    ("sampler", "lambda: 0"),
    ("sampler", "3"),
    ("step", "__import__('os').abort()"),
  ],
  ids=range(11),
)
def test_what_a_stage_file_says_is_json(sandbox, group, text):
  info = tiny_cascade.infos(8)[0]
  params = tiny_cascade.random_params(build.stage(info.stage))
  path = sandbox.folder() / "base.safetensors"
  cascade_folder.save_stage(path, params, info, dtype=np.float32)
  metadata = readers.read_safetensors(path).metadata
  del metadata[native.DIGEST]
  native.save_params(path, params, metadata | {group: text}, None)
  with pytest.raises(errors.CheckpointError, match="does not describe"):
    cascade_folder.from_files([path])
  if group == "stage" and not text.startswith('{"'):
    with pytest.raises(errors.CheckpointError, match="does not describe"):
      reading.start(path.rename(path.parent / "a.safetensors").parent)


def test_a_name_is_of_an_array_or_of_a_group(sandbox):
  path = sandbox.folder() / "a.safetensors"
  arrays = {"a": np.zeros(2), "a/b": np.ones(3)}
  native.save_params(path, arrays, {}, None)
  with pytest.raises(errors.CheckpointError, match="'a' both as an array"):
    native.load_params(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  saver = checkpoints.Checkpoints(workdir)
  saver.save(4, states.at(4), wait=True)
  saver.close()
  return workdir


def _poison(workdir: pathlib.Path, names: list[str], content: bytes) -> None:
  """Puts `content` in files of checkpoint 4, and seals it again."""
  folder = epath.Path(workdir) / checkpoints.FOLDER
  for name in names:
    (folder / "4" / name).write_bytes(content)
  manifest.write(folder, 4, {"schema": 1})


def test_checkpoints_of_pickles_are_inert(sandbox, saved):
  names = [*image_files.contents(saved / checkpoints.FOLDER / "4")]
  assert len(names) > 3
  corpus, workdirs = sandbox.corpus(), []
  for kind in ("pickle", "msgpack of ext types", "Python"):
    for chosen in (*([name] for name in names), names):
      workdirs.append(sandbox.folder())
      shutil.copytree(saved, workdirs[-1], dirs_exist_ok=True)
      _poison(workdirs[-1], chosen, corpus[kind])
  done = subprocess.run(
    [sys.executable, "-m", "tests.hostile.restoring_job", *workdirs],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  ends = done.stdout.split()
  assert len(ends) == 2 * len(workdirs)
  assert set(ends) <= {"restored", "CheckpointError"}
  # Some files are not needed; without all of them nothing is restored.
  per_kind = 2 * (len(names) + 1)
  for i in range(0, len(ends), per_kind):
    part = ends[i : i + per_kind]
    assert part[-2:] == ["CheckpointError"] * 2
    assert part.count("CheckpointError") > 4
