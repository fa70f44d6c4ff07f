"""Tests of imagen_jax.data.pipeline."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import colours, emoji, pipeline


def _make(**changes):
  return pipeline.make(**({"batch_size": 4, "resolution": 16} | changes))


@pytest.fixture(scope="module")
def base():
  return _make(seed=3)


@pytest.fixture(scope="module")
def superres():
  return _make(resolution=256, low_resolution=64, crop=96)


def _same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_is_a_function_of_seed_and_step(base):
  _same(base.batch_at(7), _make(seed=3).batch_at(7))
  other = _make(seed=4).batch_at(7)
  assert other["caption"] != base.batch_at(7)["caption"]
  assert base.batch_at(8)["caption"] != base.batch_at(7)["caption"]


@pytest.mark.parametrize("threads", [1, 3])
def test_start_anywhere_equals_the_straight_run(base, threads):
  straight = [base.batch_at(step) for step in range(12)]
  for start in (0, 5, 11):
    found = list(base.batches(start, 12, threads=threads))
    assert len(found) == 12 - start
    for a, b in zip(found, straight[start:], strict=True):
      _same(a, b)


def test_reading_on_without_an_end(base):
  found = list(itertools.islice(base.batches(1_000_000), 3))
  for step, made in enumerate(found, 1_000_000):
    _same(made, base.batch_at(step))


def test_the_stream_does_not_depend_on_the_batch_size(base):
  small = [base.batch_at(step) for step in range(6)]
  large = _make(seed=3, batch_size=12)
  for step in range(2):
    part = small[3 * step : 3 * step + 3]
    joined = np.concatenate([made["image"] for made in part])
    np.testing.assert_array_equal(large.batch_at(step)["image"], joined)


def test_held_out_pairs_are_never_drawn_and_all_others_can_be(base):
  objects, chosen = base.draw(np.arange(400_000))
  assert not base.emoji.held_out_table[objects, chosen].any()
  # Objects of weight 1: 11.6 draws a pair, so few pairs remain unseen.
  seen = np.zeros_like(base.emoji.held_out_table)
  seen[objects, chosen] = True
  crab = base.emoji.index("crab")
  np.testing.assert_array_equal(seen[crab], ~base.emoji.held_out_table[crab])


def test_groups_and_colours_are_drawn_by_weight(base):
  n = 100_000
  objects, chosen = base.draw(np.arange(n))
  groups = np.array(base.emoji.groups)
  for group in emoji.GROUP_WEIGHTS:
    share = base.emoji.weights[groups == group].sum()
    drawn = (groups[objects] == group).mean()
    assert abs(drawn - share) < 5 * np.sqrt(share / n)
  even = np.bincount(chosen, minlength=12) / n
  assert np.abs(even - 1 / 12).max() < 0.004


@pytest.mark.parametrize("resolution", [64, 256])
def test_corners_and_border_have_the_colour_of_the_caption(resolution):
  made = _make(batch_size=24, resolution=resolution).batch_at(0)
  rgb = images.from_uint8(colours.table()[made["colour"]][:, None, None])
  corners = made["image"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
  np.testing.assert_array_equal(corners, np.broadcast_to(rgb[:, 0], (24, 4, 3)))
  assert (
    made["image"][:, resolution // 2, resolution // 2] != rgb[:, 0, 0]
  ).any()
  for text, image, k in zip(
    made["caption"], made["image"], made["colour"], strict=True
  ):
    assert text.endswith(f" {colours.NAMES[k]} background")
    assert emoji.border_colour(image) == colours.NAMES[k]
  assert np.abs(made["image"]).max() <= 1
  assert made["image"].dtype == np.float32


def test_x_lr_is_the_downscale_of_the_image():
  whole = _make(resolution=256, low_resolution=64)
  made = whole.batch_at(0)
  expected = images.resize_antialias(jnp.asarray(made["image"]), (64, 64))
  gap = np.abs(np.asarray(expected) - made["x_lr"]) * 127.5
  assert made["x_lr"].shape == (4, 64, 64, 3)
  assert gap.max() <= 2.5 and gap.mean() < 0.3  # levels of 255
  nearest = made["image"][:, 2::4, 2::4]
  assert np.abs(np.asarray(expected) - nearest).max() * 127.5 > 25
  # And it is what the stage below learns to make.
  _same(
    {"image": made["x_lr"]},
    {"image": _make(resolution=64).batch_at(0)["image"]},
  )


def test_crops_are_aligned_to_the_low_resolution_grid(superres):
  whole = _make(resolution=256, low_resolution=64)
  places = set()
  for step in range(3):
    made, full = superres.batch_at(step), whole.batch_at(step)
    assert made["caption"] == full["caption"]
    assert made["image"].shape == (4, 96, 96, 3)
    assert made["x_lr"].shape == (4, 24, 24, 3)
    for i in range(4):
      found = [
        (y, x)
        for y in range(41)
        for x in range(41)
        if (full["x_lr"][i, y : y + 24, x : x + 24] == made["x_lr"][i]).all()
        and (
          full["image"][i, 4 * y : 4 * y + 96, 4 * x : 4 * x + 96]
          == made["image"][i]
        ).all()
      ]
      assert found
      places.update(found)
  assert len(places) > 6


def test_render_makes_any_pair_also_held_out_ones(base):
  pairs = base.emoji.held_out_pairs()[:3]
  objects, chosen = np.array(pairs).T
  made = base.render(objects, chosen)
  assert made["caption"] == [base.emoji.caption(*pair) for pair in pairs]
  assert made["image"].shape == (3, 16, 16, 3)


def test_tags_follow_some_captions():
  plain, tagged = (
    _make(batch_size=64),
    _make(batch_size=64, tag_probability=0.5),
  )
  a, b = plain.batch_at(0), tagged.batch_at(0)
  longer = [x != y for x, y in zip(a["caption"], b["caption"], strict=True)]
  assert 16 < sum(longer) < 48
  for x, y in zip(a["caption"], b["caption"], strict=True):
    assert y == x or y.startswith(f"{x}, ")
  np.testing.assert_array_equal(a["image"], b["image"])


def test_transform_runs_and_its_error_reaches_the_reader():
  def count(made):
    if made["object"].size != 4:
      raise errors.BadInput("never")
    return {"image": made["image"], "length": len(made["caption"])}

  def fail(made):
    raise errors.NonFinite(f"bad {len(made)}")

  assert next(_make(transform=count).batches(0, 1))["length"] == 4
  with pytest.raises(errors.NonFinite, match="bad 4"):
    list(_make(transform=fail).batches(0, 3))


def test_fingerprint_changes_with_all_that_decides_the_stream(base):
  assert base.fingerprint == _make(seed=3).fingerprint
  changes = (
    {"seed": 4},
    {"batch_size": 8},
    {"resolution": 32},
    {"low_resolution": 8},
    {"crop": 8},
    {"tag_probability": 0.1},
  )
  found = {_make(**({"seed": 3} | c)).fingerprint for c in changes}
  assert len(found | {base.fingerprint}) == len(changes) + 1


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"batch_size": 0}, "at least 1"),
    ({"resolution": 512}, "not in 1 to 256"),
    ({"resolution": 0}, "at least 1"),
    ({"low_resolution": 5}, "resolution 16 is not divisible by 5"),
    ({"low_resolution": 4, "crop": 6}, "crop 6 is not divisible by 4"),
    ({"crop": 32}, "crop 32 is more than"),
    ({"tag_probability": float("nan")}, "tag_probability"),
  ],
)
def test_bad_arguments(changes, match):
  with pytest.raises(errors.BadInput, match=match):
    _make(**changes)


def test_negative_steps(base):
  with pytest.raises(errors.BadInput, match="negative"):
    base.batch_at(-1)
