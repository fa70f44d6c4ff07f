"""Files that appear whole or not at all, and disks that are full."""

import json
import os
import resource

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import store_writer
from tests.text import hashed_job


@pytest.fixture
def small_disk():
  """No file may grow over 300 kB: as where a disk is full, in the middle."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _shard(folder, count):
  writer = store_writer.ShardWriter(
    folder / "shard", temporary=folder / "temporary", dtype="bfloat16"
  )
  for i in range(count):
    writer.add(b"%16d" % i, hashed_job.row(str(i)), i % 2 == 0)
  return writer


def test_a_shard_appears_when_it_is_committed(tmp_path):
  writer = _shard(tmp_path, 5)
  assert not (tmp_path / "shard").exists()
  line = writer.commit()
  assert [path.name for path in tmp_path.iterdir()] == ["shard"]
  assert (line.file, line.records, line.truncated) == ("shard", 5, 3)
  assert line.tokens == sum(len(hashed_job.row(str(i))) for i in range(5))
  assert line.bytes == (tmp_path / "shard").stat().st_size


def test_what_a_dead_writer_left_is_written_over(tmp_path):
  line = _shard(tmp_path, 5).commit()
  (tmp_path / "temporary").write_bytes(b"x" * 1_000_000)
  assert _shard(tmp_path, 5).commit() == line


def test_json_and_arrays(tmp_path):
  temporary = tmp_path / "temporary"
  store_writer.write_file(tmp_path / "a", {"b": "ü"}, temporary=temporary)
  assert json.loads((tmp_path / "a").read_text("utf-8")) == {"b": "ü"}
  array = np.arange(6).reshape(2, 3)
  store_writer.write_file(tmp_path / "a", array, temporary=temporary)
  np.testing.assert_array_equal(np.load(tmp_path / "a"), array)
  assert not temporary.exists()


def test_a_file_gets_its_name_in_one_step(tmp_path, monkeypatch):
  def replace(temporary, path):
    assert json.loads(temporary.read_text()) == [2]  # all of it
    raise OSError(28, "No space left on device")

  temporary = tmp_path / "temporary"
  store_writer.write_file(tmp_path / "a", [1], temporary=temporary)
  monkeypatch.setattr(os, "replace", replace)
  with pytest.raises(errors.CheckpointError, match="a': No space left on"):
    store_writer.write_file(tmp_path / "a", [2], temporary=temporary)
  assert json.loads((tmp_path / "a").read_text()) == [1]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, small_disk):
  temporary = tmp_path / "temporary"
  store_writer.write_file(tmp_path / "a", [1], temporary=temporary)
  with pytest.raises(
    errors.CheckpointError, match="could not write .*free space"
  ):
    store_writer.write_file(
      tmp_path / "a", np.zeros(99_999), temporary=temporary
    )
  assert json.loads((tmp_path / "a").read_text()) == [1]


def test_a_full_disk_under_a_shard_is_one_line(tmp_path, small_disk):
  with pytest.raises(errors.CheckpointError, match="too large") as caught:
    _shard(tmp_path, 3000).commit()
  assert "\n" not in str(caught.value)
  assert errors.CheckpointError.exit_code == 5
  assert not (tmp_path / "shard").exists()
