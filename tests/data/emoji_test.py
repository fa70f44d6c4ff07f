"""Tests of imagen_jax.data.emoji on the set that the package ships."""

import dataclasses
import re
import shutil
from collections import Counter

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import array_record_source, colours, emoji


@pytest.fixture(scope="module")
def opened():
  return emoji.open_emoji()


def test_counts(opened):
  assert len(opened) == 3121
  assert Counter(opened.groups) == {
    "smileys": 167,
    "people": 1881,
    "animals": 157,
    "food": 128,
    "travel": 218,
    "activities": 85,
    "objects": 261,
    "symbols": 224,
  }
  assert all(record.tags for record in opened.records)
  assert len({record.codes for record in opened.records}) == 3121


def test_shards_are_small_and_licences_are_there():
  sizes = [path.stat().st_size for path in emoji.FOLDER.iterdir()]
  assert max(sizes) <= 4 * 2**20
  assert sum(sizes) <= 18 * 2**20
  for name in ("FLUENT-EMOJI", "LOBEHUB", "EMOJIBASE", "UNICODE"):
    assert (emoji.FOLDER / f"LICENSE-{name}.txt").stat().st_size > 500
  assert "Held-out" in (emoji.FOLDER / "DATA_CARD.md").read_text()


@pytest.mark.parametrize("index", [0, 1000, 3120])
def test_images_are_square_premultiplied_and_clear_at_the_corners(
  opened, index
):
  rgba = opened.rgba(index)
  assert rgba.shape == (256, 256, 4)
  assert (rgba[..., :3] <= rgba[..., 3:]).all()
  assert not rgba[[0, 0, -1, -1], [0, -1, 0, -1]].any()
  assert rgba[..., 3].max() == 255


def test_the_four_tall_images_were_cut_to_a_square(opened):
  for name in ("keycap 5", "ringed planet"):
    alpha = opened.rgba(opened.index(name))[..., 3]
    assert alpha.shape == (256, 256)
    assert not alpha[0].any() and not alpha[-1].any()


def test_held_out_pairs_are_a_fixed_tenth(opened):
  pairs = opened.held_out_pairs()
  ordinary = sum(group in emoji.HELD_OUT_GROUPS for group in opened.groups)
  assert len(pairs) == 1188
  assert abs(len(pairs) / (ordinary * 12) - 0.1) < 0.01
  # Written down once: changing the rule would spoil comparisons.
  assert emoji.held_out_names("lion", "navy blue")
  assert not emoji.held_out_names("lion", "red")
  for i, c in pairs[::50]:
    assert opened.held_out(i, c)
    assert opened.groups[i] not in ("people", "symbols")
  per_colour = Counter(c for _, c in pairs)
  assert min(per_colour.values()) > 60
  assert opened.held_out_table.sum(axis=1).max() < 12


def test_showcase_is_held_out_and_varied(opened):
  assert len(emoji.SHOWCASE) == len({c for _, c in emoji.SHOWCASE}) == 8
  for name, colour in emoji.SHOWCASE:
    assert opened.held_out(opened.index(name), colours.index(colour))
  prompts = emoji.showcase_prompts()
  assert prompts[0] == "a 3D render of a lion on a navy blue background"
  pairs = [
    opened.caption(opened.index(n), colours.index(c)) for n, c in emoji.SHOWCASE
  ]
  assert prompts == pairs


def test_weights_balance_groups_and_share_among_skin_tones(opened):
  assert opened.weights.sum() == pytest.approx(1)
  share = Counter()
  for group, weight in zip(opened.groups, opened.weights, strict=True):
    share[group] += weight
  assert share["people"] < 0.12  # 0.60 when drawn evenly
  assert min(share.values()) > 0.05
  assert share["animals"] + share["food"] + share["objects"] > 0.45
  plain = opened.index("crab")
  toned = opened.index("woman golfing with dark skin tone")
  ratio = opened.weights[plain] / opened.weights[toned]
  assert ratio == pytest.approx(1.2 / 0.3 * 6)


def test_the_order_of_training_colours_puts_held_out_last(opened):
  table = np.take_along_axis(
    opened.held_out_table, opened.training_colours, axis=1
  )
  assert (np.diff(table.astype(int), axis=1) >= 0).all()


def test_pixels_are_the_same_lazily_and_in_any_order(opened):
  lazy = opened.at(32)
  some = np.array([5, 3, 5, 2000])
  rows = lazy.rows(some)
  np.testing.assert_array_equal(rows[0], rows[2])
  np.testing.assert_array_equal(rows, opened.at(32).rows(some[::-1])[::-1])
  cut = lazy.windows(some, np.array([1, 2, 3, 4]), np.array([0, 5, 6, 7]), 8)
  np.testing.assert_array_equal(cut[3], rows[3, 4:12, 7:15])


def test_errors(opened, tmp_path):
  with pytest.raises(errors.BadInput, match="near: lion"):
    opened.index("lionn")
  with pytest.raises(errors.BadInput, match="resolution 512"):
    opened.at(512)
  with pytest.raises(errors.BadInput, match=r"no manifest\.json"):
    emoji.open_emoji(tmp_path)
  record = dataclasses.replace(opened.records[0], image=b"not a picture")
  broken = dataclasses.replace(opened, records=(record,))
  with pytest.raises(errors.DataError, match=re.escape(record.codes)):
    broken.rgba(0)


def test_a_damaged_copy_is_refused(tmp_path):
  folder = tmp_path / "emoji"
  shutil.copytree(emoji.FOLDER, folder)
  path = sorted(folder.glob("*.array_record"))[2]
  data = bytearray(path.read_bytes())
  data[123_456] ^= 4
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match=path.name) as caught:
    emoji.open_emoji(folder)
  assert "\n" not in str(caught.value)


def test_a_set_without_records_is_refused(tmp_path):
  array_record_source.write_manifest(
    tmp_path, [], name="none", image_size=256, notes={}
  )
  with pytest.raises(errors.DataError, match="no records"):
    emoji.open_emoji(tmp_path)
