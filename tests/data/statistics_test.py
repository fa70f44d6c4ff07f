"""Tests of imagen_jax.data.statistics and check_images."""

import dataclasses

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import (
  array_record_source,
  check_images,
  decode,
  examples,
  image_filter,
  image_item,
  statistics,
)
from tests import image_files


def _example(seed, *captions, height=72, width=96, kind="png"):
  data = image_files.file(seed, kind, height, width)
  item = image_item.Item(str(seed), data, captions or (f"picture {seed}",))
  return image_filter.judge(item, image_filter.Settings()).example


def _write(folder, rows):
  half = len(rows) // 2
  shards = [
    array_record_source.write_shard(
      folder / f"{i}.array_record", part, encode=examples.encode
    )
    for i, part in enumerate((rows[:half], rows[half:]))
  ]
  notes = {"format": examples.FORMAT}
  array_record_source.write_manifest(folder, shards, name="toy", notes=notes)
  return examples.open_as_is(folder)


def test_a_tally_counts_sizes_aspects_and_words():
  tally = statistics.Tally()
  tally.add(_example(0, "a b", "one", height=127, width=254))
  tally.add(_example(1, "a b c d", height=128, width=64))
  tally.add(_example(2, "x", height=128, width=128))
  told = tally.as_json()
  assert told["shorter_side"] == {"64..127": 2, "128..255": 1}
  assert {k: n for k, n in told["aspect"].items() if n} == {
    "up to 1:2": 1, "3:4 to 4:3": 1, "4:3 to 2:1": 1,
  }  # fmt: skip
  assert told["captions"] == {
    "count": 4, "mean_words": 2.0, "words_5%": 1, "words_50%": 1,
    "words_95%": 4, "longest_words": 4,
  }  # fmt: skip
  assert statistics.Tally().as_json()["captions"]["mean_words"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_those_of_numpy(seed):
  values = np.random.default_rng(seed).poisson(9, 1 + 40 * seed)
  counts = dict(zip(*np.unique(values, return_counts=True), strict=True))
  counts = {int(k): int(n) for k, n in counts.items()}
  expected = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
  assert statistics.quantiles(counts) == tuple(expected.tolist())


def test_a_survey_finds_duplicates_and_mean_colours(tmp_path):
  rows = [_example(i, height=70 + i) for i in range(6)]
  rows.append(dataclasses.replace(rows[1], key="again"))
  rows.append(_example(9, "picture 0"))
  seen = []
  found = statistics.survey(_write(tmp_path, rows), progress=seen.append)
  assert seen == list(range(1, 9))
  assert found.same_images == [("again", "1")]
  assert found.same_captions == 2 and found.sampled == 8
  pictures = [decode.decode(row.image).reshape(-1, 3) for row in rows]
  mean = np.mean([p.mean(0) for p in pictures], 0)
  square = np.mean([(p.astype(float) ** 2).mean(0) for p in pictures], 0)
  np.testing.assert_allclose(found.colour_mean, mean, atol=0.01)
  deviation = np.sqrt(square - mean**2)
  np.testing.assert_allclose(found.colour_deviation, deviation, atol=0.02)
  assert found.sheet.shape[2] == 3 and found.sheet.shape[0] > 2 * 72


def test_a_sample_follows_its_seed(tmp_path):
  source = _write(tmp_path, [_example(i) for i in range(12)])
  first, same, other = (
    statistics.survey(source, sample=4, shown=2, seed=seed).colour_mean
    for seed in (1, 1, 2)
  )
  assert first == same != other
  assert statistics.survey(source, sample=4, shown=2).sampled == 4


def test_nothing_is_wrong_with_a_new_set(tmp_path):
  source = _write(tmp_path, [_example(i) for i in range(6)])
  assert list(check_images.complaints(tmp_path, source, decoded=True)) == []


def test_all_faults_are_named(tmp_path):
  rows = [_example(i, kind="jpeg") for i in range(6)]
  rows[0] = dataclasses.replace(rows[0], image=rows[0].image[:500])
  rows[1] = dataclasses.replace(rows[1], extra={"width": 72, "height": 96})
  source = _write(tmp_path, rows)
  path = tmp_path / "1.array_record"
  data = bytearray(path.read_bytes())
  data[data.index(rows[4].image) + 600] ^= 8
  path.write_bytes(data)
  (tmp_path / "2.array_record").write_bytes(b"x")
  plain = list(check_images.complaints(tmp_path, source))
  assert len(plain) == 3
  assert "1.array_record' is damaged: SHA-256" in plain[0]
  assert plain[1] == "shard '2.array_record' is not in the manifest"
  assert plain[2].startswith("record 4: ")
  full = list(check_images.complaints(tmp_path, source, decoded=True))
  assert full[:2] == plain[:2] and full[4] == plain[2]
  assert full[2].startswith("record 0 (0): damaged (OSError")
  assert full[3] == (
    "record 1 (1): the image is (96, 72), its header says (72, 96)"
  )
  with pytest.raises(errors.DataError, match="record 0 .* verify --decode"):
    statistics.survey(_write(tmp_path, rows))
