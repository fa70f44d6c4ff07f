"""The job: resumed, shared, interrupted, it always gives the same bytes."""

import itertools
import random
import shutil
import subprocess
import sys
import threading
import time

import filelock
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import precompute, store
from tests.text import hashed_job

CAPTIONS = hashed_job.captions(60)  # 40 different ones
SIZE = 8


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  out = tmp_path_factory.mktemp("undisturbed")
  assert hashed_job.run(out, CAPTIONS, shard_size=SIZE) == (5, 0)
  return hashed_job.contents(out)


class Stop(Exception):
  """Ends a run, after `count` blocks."""


def stopping(count):
  calls = itertools.count()

  def embed_rows(captions):
    if next(calls) == count:
      raise Stop
    return hashed_job.embed_rows(captions)

  return embed_rows


def test_the_store_holds_shards_index_and_manifest(expected):
  shards = [f"embeddings-{i:05d}-of-00005.array_record" for i in range(5)]
  index = ["captions.npy", "examples.npy", "records.npy"]
  assert sorted(expected) == sorted([*shards, *index, "manifest.json"])


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_hosts_in_any_order_give_the_same_bytes(tmp_path, expected, order):
  left = [
    hashed_job.run(
      tmp_path, CAPTIONS, shard_size=SIZE, host=precompute.Host(i, 3)
    ).missing
    for i in order
  ]
  assert left[-1] == 0 < left[1] < left[0]
  assert hashed_job.contents(tmp_path) == expected


def test_hosts_at_once_give_the_same_bytes(tmp_path, expected):
  for attempt in range(5):
    out, results = tmp_path / str(attempt), []

    def work(i, out=out, results=results):
      host = precompute.Host(i, 3)
      results.append(hashed_job.run(out, CAPTIONS, shard_size=SIZE, host=host))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert len(results) == 3
    assert min(result.missing for result in results) == 0
    assert hashed_job.contents(out) == expected
    assert not (out / ".parts").exists()


def test_a_shard_that_its_host_must_write_again_is_missing(tmp_path, expected):
  def work(i):
    host = precompute.Host(i, 2)
    return hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, host=host)

  assert work(1) == (5, 3)
  (path,) = tmp_path.glob("*-00003-*")
  path.write_bytes(path.read_bytes()[:-1])
  assert work(0) == (5, 1)
  assert work(1) == (5, 0)
  assert hashed_job.contents(tmp_path) == expected


def test_more_hosts_than_shards(tmp_path, expected):
  for i in reversed(range(7)):
    hashed_job.run(
      tmp_path, CAPTIONS, shard_size=SIZE, host=precompute.Host(i, 7)
    )
  assert hashed_job.contents(tmp_path) == expected


@pytest.mark.parametrize("count", range(5))
def test_a_stopped_run_goes_on_where_it_was(tmp_path, expected, count):
  with pytest.raises(Stop):
    hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=stopping(count))
  with pytest.raises(errors.DataError, match="is not finished"):
    store.EmbeddingStore(tmp_path)
  reports = []
  hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, progress=reports.append)
  assert [report.captions for report in reports] == list(
    range(count * SIZE, 41, SIZE)
  )
  assert hashed_job.contents(tmp_path) == expected


def test_progress_counts_captions_tokens_and_bytes(tmp_path):
  reports = []
  hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, progress=reports.append)
  tokens = sum(len(hashed_job.row(c)) for c in set(CAPTIONS))
  assert reports[0] == (0, 40, 0, 0)
  assert reports[-1] == (40, 40, tokens, tokens * 2 * hashed_job.WIDTH)
  assert reports == sorted(reports)


def test_blocks_stay_within_a_shard(tmp_path, expected, monkeypatch):
  monkeypatch.setattr(precompute, "BLOCK_SIZE", 3)
  blocks = []

  def embed_rows(captions):
    blocks.append(len(captions))
    return hashed_job.embed_rows(captions)

  hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=embed_rows)
  assert blocks == [3, 3, 2] * 5
  assert hashed_job.contents(tmp_path) == expected


def test_a_shard_damaged_meanwhile_is_written_again(tmp_path, expected):
  with pytest.raises(Stop):
    hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=stopping(4))
  paths = sorted(tmp_path.glob("*.array_record"))
  data = bytearray(paths[0].read_bytes())
  data[100] ^= 1
  paths[0].write_bytes(data)
  paths[2].unlink()
  (tmp_path / ".parts" / "00003.json").write_text("{")
  seen = []

  def embed_rows(captions):
    seen.extend(captions)
    return hashed_job.embed_rows(captions)

  hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=embed_rows)
  unique = list(dict.fromkeys(CAPTIONS))
  assert seen == unique[:8] + unique[16:]  # all but shard 1
  assert hashed_job.contents(tmp_path) == expected


def test_a_finished_store_is_verified_and_kept(tmp_path, expected):
  hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE)
  again = hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=stopping(0))
  assert again == (5, 0)
  assert hashed_job.contents(tmp_path) == expected
  (tmp_path / "records.npy").unlink()
  with pytest.raises(errors.DataError, match=r"records.npy cannot be read"):
    hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE)
  assert not (tmp_path / ".parts").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
  ("name", "source", "options"),
  [
    ("captions_sha256", CAPTIONS[::-1], {}),
    ("captions_sha256", CAPTIONS[1:], {}),
    ("dtype", CAPTIONS, {"dtype": "int8"}),
    ("shard_size", CAPTIONS, {"shard_size": 9}),
    ("settings", CAPTIONS, {"settings": {"batch_size": 2}}),
  ],
)
def test_a_folder_keeps_to_its_plan(tmp_path, name, source, options, finished):
  embed = hashed_job.embed_rows if finished else stopping(2)
  try:
    hashed_job.run(tmp_path, CAPTIONS, shard_size=SIZE, embed=embed)
  except Stop:
    assert not finished
  before = hashed_job.contents(tmp_path)
  with pytest.raises(errors.BadInput, match=f": {name}: the store has"):
    hashed_job.run(tmp_path, source, **({"shard_size": SIZE} | options))
  assert hashed_job.contents(tmp_path) == before


def test_another_encoder_is_another_plan(tmp_path, monkeypatch):
  hashed_job.run(tmp_path, CAPTIONS)
  other = hashed_job.IDENTITY._replace(encoder="t5", clean="lower")
  monkeypatch.setattr(hashed_job, "IDENTITY", other)
  with pytest.raises(errors.BadInput, match=r'has "hashes", asked was "t5";'):
    hashed_job.run(tmp_path, CAPTIONS)


def test_odd_captions_go_through(tmp_path):
  hashed_job.run(tmp_path, hashed_job.ODD_CAPTIONS)
  rows = store.EmbeddingStore(tmp_path).rows(hashed_job.ODD_CAPTIONS)
  for caption, row in zip(hashed_job.ODD_CAPTIONS, rows, strict=True):
    np.testing.assert_array_equal(row, hashed_job.row(caption))


def test_captions_must_stay_the_same(tmp_path):
  streams = iter([CAPTIONS, [*CAPTIONS[:30], "changed", *CAPTIONS[31:]]])
  with pytest.raises(errors.DataError, match="caption 30 is another one than"):
    precompute.run(
      lambda: iter(next(streams)),
      hashed_job.embed_rows,
      hashed_job.IDENTITY,
      tmp_path,
    )


def test_what_is_not_finite_is_named(tmp_path):
  def embed_rows(captions):
    found = hashed_job.embed_rows(captions)
    found.rows[3][0, 5] = np.inf
    return found

  with pytest.raises(errors.NonFinite, match="of caption 'caption 4' is not"):
    hashed_job.run(tmp_path, CAPTIONS, embed=embed_rows)


def test_rows_of_another_shape_are_refused(tmp_path):
  def embed_rows(captions):
    rows = [np.zeros((17, 8), np.float32) for _ in captions]
    return precompute.Rows(rows, [False for _ in captions])

  with pytest.raises(errors.BadInput, match=r"gives \[17, 8\] .* \[16, 8\]"):
    hashed_job.run(tmp_path, CAPTIONS, embed=embed_rows)


def test_bad_arguments(tmp_path):
  with pytest.raises(errors.BadInput, match="there are no captions"):
    hashed_job.run(tmp_path, [])
  for options in ({"host": precompute.Host(2, 2)}, {"shard_size": 0}):
    with pytest.raises(errors.BadInput, match="hosts count from 0"):
      hashed_job.run(tmp_path, CAPTIONS, **options)
  hashed_job.run(tmp_path, CAPTIONS)  # what was refused left nothing behind


def test_a_second_run_of_the_same_host_is_refused(tmp_path):
  (tmp_path / ".parts").mkdir()
  with (
    filelock.FileLock(tmp_path / ".parts" / "host-0-of-1.lock"),
    pytest.raises(errors.BadInput, match="another run writes host-0-of-1"),
  ):
    hashed_job.run(tmp_path, CAPTIONS)


def _start(*arguments):
  command = [sys.executable, "-m", "tests.text.hashed_job", *arguments]
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_ten_times_at_random_moments(tmp_path):
  hashed_job.run(tmp_path / "undisturbed", **hashed_job.SLOW)
  expected = hashed_job.contents(tmp_path / "undisturbed")
  shutil.rmtree(tmp_path / "undisturbed")
  out, moments, starts = tmp_path / "killed", random.Random(0), []
  for _ in range(10):
    process = _start("slow", str(out))
    starts.append(int(process.stdout.readline()))  # what it found done
    time.sleep(moments.uniform(0, 0.4))
    process.kill()
    assert process.wait() == -9, "it had come to its end"
    process.stdout.close()
  assert starts == sorted(starts)
  assert 0 < starts[-1] < len(set(hashed_job.SLOW["source"]))
  hashed_job.run(out, **hashed_job.SLOW)
  assert hashed_job.contents(out) == expected
  assert not (out / ".parts").exists()


def test_killed_at_each_step_on_the_file_system(tmp_path):
  hashed_job.run(tmp_path / "undisturbed", **hashed_job.SMALL)
  expected = hashed_job.contents(tmp_path / "undisturbed")
  with _start("points", str(tmp_path)) as process:
    steps = int(process.stdout.read())
  assert process.returncode == 0
  assert steps > 30
  for step in range(steps):
    assert hashed_job.contents(tmp_path / str(step)) == expected
    assert not (tmp_path / str(step) / ".parts").exists()
