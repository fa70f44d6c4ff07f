"""Any change of a checkpoint's files is found, and named."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors
from imagen_jax.train import checkpoints, manifest
from tests.train import states


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """The folder of one real checkpoint, of step 3."""
  workdir = tmp_path_factory.mktemp("run")
  saver = checkpoints.Checkpoints(workdir)
  saver.save(3, states.at(3), wait=True)
  saver.close()
  return workdir / "checkpoints"


@pytest.fixture
def folder(written, tmp_path):
  """A copy to damage."""
  return epath.Path(shutil.copytree(written, tmp_path / "checkpoints"))


def files_of(folder):
  found = pathlib.Path(folder).rglob("*")
  return sorted(path for path in found if path.is_file())


def damage(path, draw):
  """Flips a bit, cuts the end off, or deletes; returns what undoes it."""
  data = path.read_bytes()
  kind = draw.choice(["flip", "truncate", "delete"])
  if kind == "delete":
    path.unlink()
  elif kind == "truncate":
    path.write_bytes(data[: draw.integers(len(data))])
  else:
    at, changed = draw.integers(len(data)), bytearray(data)
    changed[at] ^= 1 << draw.integers(8)
    path.write_bytes(changed)
  return lambda: path.write_bytes(data)


def test_300_of_300_flips_truncations_and_deletions_are_found(folder):
  draw = np.random.default_rng(0)
  paths = files_of(folder)
  assert len(paths) > 8 and pathlib.Path(folder / "3.manifest.json") in paths
  assert manifest.faults_of(folder, 3) == []
  for _ in range(300):
    undo = damage(paths[draw.integers(len(paths))], draw)
    assert manifest.faults_of(folder, 3)
    undo()
  assert manifest.faults_of(folder, 3) == []


def test_each_fault_is_named(folder):
  names = manifest.read(folder, 3).files
  first, second, third = sorted(names)[:3]
  (folder / "3" / first).unlink()
  with open(folder / "3" / second, "ab") as file:
    file.write(b"!")
  data = bytearray((folder / "3" / third).read_bytes())
  data[0] ^= 1
  (folder / "3" / third).write_bytes(data)
  (folder / "3" / "more").write_bytes(b"")
  size = names[second]["bytes"]
  assert manifest.faults_of(folder, 3) == sorted(
    [
      f"{first} is missing",
      f"{second} has {size + 1} bytes, not {size}",
      f"{third} has another SHA-256",
      "more is not in it",
    ]
  )


def test_a_changed_blank_of_the_manifest_is_found(folder):
  path = manifest.path(folder, 3)
  path.write_text(path.read_text().replace("\n", "\r\n", 1))
  with pytest.raises(errors.CheckpointError, match=r"3.manifest.json is dam"):
    manifest.read(folder, 3)


def test_a_manifest_of_another_step_is_none(folder):
  manifest.path(folder, 3).rename(manifest.path(folder, 4))
  (folder / "3").rename(folder / "4")
  assert "3.manifest.json is missing" in manifest.faults_of(folder, 3)
  assert "4.manifest.json is damaged" in manifest.faults_of(folder, 4)[0]


def test_what_is_said_of_the_run_is_kept_as_json_has_it(tmp_path):
  folder = epath.Path(tmp_path)
  (folder / "7" / "deep").mkdir(parents=True)
  (folder / "7" / "deep" / "file").write_bytes(b"abc")
  about = {"config": {"pair": (1, 2), 3: epath.Path("x")}, "schema": 1}
  manifest.write(folder, 7, about)
  read = manifest.read(folder, 7)
  assert read.about == {"config": {"pair": [1, 2], "3": "x"}, "schema": 1}
  assert read.files == {
    "deep/file": {
      "bytes": 3,
      "sha256": (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
      ),
    }
  }
  assert json.loads((folder / "7.manifest.json").read_text())["step"] == 7
  assert [p.name for p in folder.iterdir() if "tmp" in p.name] == []
