"""Reading a store, and every way in which it may be damaged."""

import json
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import store, store_format
from tests.text import hashed_job

CAPTIONS = [*hashed_job.captions(40), *hashed_job.ODD_CAPTIONS]
SHARD = "embeddings-{:05d}-of-00005.array_record"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  out = tmp_path_factory.mktemp("store")
  hashed_job.run(out, CAPTIONS, shard_size=8)
  return out


@pytest.fixture
def folder(made, tmp_path):
  """A copy that may be damaged: 36 captions in shards of 8, 8, 8, 8, 4."""
  return pathlib.Path(shutil.copytree(made, tmp_path / "store"))


def test_examples_and_captions_give_their_rows(made):
  opened = store.EmbeddingStore(made)
  assert len(opened) == len(CAPTIONS)
  by_caption = opened.rows(CAPTIONS)
  for i, caption in enumerate(CAPTIONS):
    assert opened[i].dtype == np.float32
    np.testing.assert_array_equal(opened[i], hashed_job.row(caption))
    np.testing.assert_array_equal(by_caption[i], hashed_job.row(caption))
  assert not np.array_equal(opened[0], hashed_job.row(CAPTIONS[1]))


def test_equal_captions_share_a_record(made):
  opened = store.EmbeddingStore(made)
  unique = set(CAPTIONS)
  assert opened.manifest.captions == len(unique) < len(CAPTIONS)
  assert opened.manifest.tokens == sum(len(hashed_job.row(c)) for c in unique)
  assert opened.manifest.truncated == sum(len(c) > 20 for c in unique)


def test_embed_stands_in_for_an_encoder(made):
  opened = store.EmbeddingStore(made)
  text_emb, text_mask = opened.embed(CAPTIONS[::-1])
  for i, caption in enumerate(CAPTIONS[::-1]):
    row = hashed_job.row(caption)
    np.testing.assert_array_equal(text_emb[i, text_mask[i]], row)
    assert text_mask[i].tolist() == [j < len(row) for j in range(16)]
  assert (text_emb[~text_mask] == 0).all()
  assert opened.embed([]).text_emb.shape == (0, 16, hashed_job.WIDTH)


def test_int8_is_near(made, tmp_path):
  hashed_job.run(tmp_path, CAPTIONS, dtype="int8")
  near = store.EmbeddingStore(tmp_path).rows(CAPTIONS)
  exact = store.EmbeddingStore(made).rows(CAPTIONS)
  worst = max(np.abs(a - b).max() for a, b in zip(near, exact, strict=True))
  assert 0 < worst <= 2 / 127 / 2 + 1e-6  # values are in [-2, 2)


def test_threads_read_at_once(made):
  opened = store.EmbeddingStore(made)
  right = []

  def read(seed):
    order = np.random.default_rng(seed).permutation(len(CAPTIONS)).tolist()
    for i in order:
      np.testing.assert_array_equal(opened[i], hashed_job.row(CAPTIONS[i]))
    right.append(seed)

  threads = [threading.Thread(target=read, args=(s,)) for s in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(right) == [0, 1, 2, 3]


def test_few_files_stay_open(made, monkeypatch):
  monkeypatch.setattr(store, "_OPEN_SHARDS", 2)
  before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
  opened = store.EmbeddingStore(made)
  for i in range(len(opened)):
    np.testing.assert_array_equal(opened[i], hashed_job.row(CAPTIONS[i]))
  after = len(list(pathlib.Path("/proc/self/fd").iterdir()))
  assert after - before <= 2 + 3  # two of five shards, and the index


def test_an_unknown_caption_says_how_to_get_it(made):
  opened = store.EmbeddingStore(made)
  with pytest.raises(errors.DataError) as caught:
    opened.rows([CAPTIONS[0], "y" * 200, "other"])
  assert "2 of 3 captions are not in the store" in str(caught.value)
  assert f"'{'y' * 60}'... (200 characters)" in str(caught.value)
  assert "imagen embed" in str(caught.value)
  for i in (-1, len(opened)):
    with pytest.raises(IndexError):
      opened[i]


def test_another_encoder_tokenizer_or_length_is_refused(made):
  has = hashed_job.IDENTITY
  store.EmbeddingStore(made, expected=has)
  store.EmbeddingStore(made, expected=store_format.Identity(max_length=16))
  other = {
    "encoder": "t5",
    "weights": "c" * 64,
    "tokenizer": "d" * 64,
    "max_length": 77,
    "width": 4096,
    "clean": "deepfloyd",
  }
  for field, value in other.items():
    asked = has._replace(**{field: value})
    with pytest.raises(errors.BadInput) as caught:
      store.EmbeddingStore(made, expected=asked)
    assert str(caught.value).count("asked was") == 1
    assert f"{field}: the store has" in str(caught.value)
  with pytest.raises(errors.BadInput) as caught:
    store.EmbeddingStore(made, expected=store_format.Identity(**other))
  assert str(caught.value).count("asked was") == 6


def test_the_fingerprint_is_of_the_content(made, tmp_path):
  same, other = tmp_path / "same", tmp_path / "other"
  hashed_job.run(same, CAPTIONS, shard_size=8)
  hashed_job.run(other, CAPTIONS[1:], shard_size=8)
  prints = [store.EmbeddingStore(f).fingerprint for f in (made, same, other)]
  assert prints[0] == prints[1] != prints[2]


def _flip(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)


def _swap(folder, a, b):
  other = folder / "other"
  (folder / a).rename(other)
  (folder / b).rename(folder / a)
  other.rename(folder / b)


def _edit(folder, change):
  content = json.loads((folder / "manifest.json").read_text())
  change(content)
  (folder / "manifest.json").write_text(json.dumps(content))


def _append(path):
  with path.open("ab") as file:
    file.write(b"\0")


def _miscount(content):
  for shard, records in zip(content["shards"], (6, 10), strict=False):
    shard["records"] = records


# What is done to the store -> what the message says. All are found on opening,
# with and without SHA-256.
DAMAGES = {
  "missing": (
    lambda f: (f / SHARD.format(2)).unlink(),
    r"00002-of-00005.array_record cannot be read \(No such file",
  ),
  "truncated": (
    lambda f: (f / SHARD.format(4)).write_bytes(b"x" * 100),
    "00004-of-00005.array_record has 100 bytes, not",
  ),
  "longer": (
    lambda f: _append(f / SHARD.format(1)),
    "00001-of-00005.array_record has",
  ),
  "duplicated": (
    lambda f: shutil.copy(f / SHARD.format(0), f / SHARD.format(3)),
    "00003-of-00005.array_record does not h",
  ),
  "reordered": (
    lambda f: _swap(f, SHARD.format(0), SHARD.format(1)),
    "00000-of-00005.array_record does not h.*00001-of-00005",
  ),
  "one too many": (
    lambda f: shutil.copy(f / SHARD.format(0), f / "more.array_record"),
    "more.array_record is not in the manifest",
  ),
  "reordered in the manifest": (
    lambda f: _edit(f, lambda c: c["shards"].insert(0, c["shards"].pop(1))),
    "00001-of-00005.array_record does not hold the captions",
  ),
  "duplicated in the manifest": (
    lambda f: _edit(f, lambda c: c["shards"].insert(0, c["shards"][0])),
    "do not hold as many captions as",
  ),
  "lost in the manifest": (
    lambda f: _edit(f, lambda c: c["shards"].pop()),
    "00004-of-00005.array_record is not in the manifest",
  ),
  "wrong count": (
    lambda f: _edit(f, _miscount),
    "00000-of-00005.array_record has 8 records, not 6",
  ),
  "no index": (
    lambda f: (f / "examples.npy").unlink(),
    r"examples.npy cannot be read \(No such file",
  ),
  "truncated index": (
    lambda f: (f / "captions.npy").write_bytes(b"\x93NUMPY"),
    "captions.npy has 6 bytes, not",
  ),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_on_opening(folder, damage, checked):
  change, message = DAMAGES[damage]
  change(folder)
  with pytest.raises(errors.DataError, match=message) as caught:
    store.EmbeddingStore(folder, checked=checked)
  assert "\n" not in str(caught.value)
  assert errors.DataError.exit_code == 4


@pytest.mark.parametrize("place", [0, 70, 65_600, -1])
@pytest.mark.parametrize("file", [SHARD.format(1), "captions.npy"])
def test_a_flipped_bit_is_found_by_sha256(folder, file, place):
  size = (folder / file).stat().st_size
  _flip(folder / file, place if place < 0 else place % size)
  with pytest.raises(errors.DataError, match=f"{file} does not have the SHA"):
    store.EmbeddingStore(folder)


def test_a_bit_flipped_under_way_is_found_on_reading(folder):
  row = hashed_job.row(CAPTIONS[4])
  for path in folder.glob("*.array_record"):
    data = path.read_bytes()
    place = data.find(store_format.encode_row(row, "bfloat16"))
    if place >= 0:
      _flip(path, place)
  opened = store.EmbeddingStore(folder, checked=False)
  with pytest.raises(
    errors.DataError, match=r"00000-of-00005.* cannot be read"
  ):
    opened[4]
  np.testing.assert_array_equal(opened[30], hashed_job.row(CAPTIONS[30]))


def test_an_index_of_the_right_size_that_lies_is_found(folder):
  records = np.load(folder / "records.npy")
  np.save(folder / "records.npy", records[::-1])
  with pytest.raises(errors.DataError, match="does not hold the captions"):
    store.EmbeddingStore(folder, checked=False)
  np.save(folder / "records.npy", records.astype(np.float64))
  with pytest.raises(errors.DataError, match=r"records.npy is float64\[36\]"):
    store.EmbeddingStore(folder, checked=False)


def test_all_problems_are_told_at_once(folder):
  for i in range(5):
    (folder / SHARD.format(i)).write_bytes(b"")
  with pytest.raises(errors.DataError, match="00003-.*; and 1 more. Do copy"):
    store.EmbeddingStore(folder)


def test_a_store_is_read_without_jax(made):
  code = (
    "import sys; from imagen_jax.text import store;"
    f" assert len(store.EmbeddingStore({str(made)!r}).embed(['\\0'])) == 2;"
    " assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
