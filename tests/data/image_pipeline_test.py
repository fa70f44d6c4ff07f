"""Tests of imagen_jax.data.image_pipeline."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from imagen_jax.core import errors, images
from imagen_jax.data import batch as batch_lib
from imagen_jax.data import examples, image_pipeline, image_view, rejects
from tests import image_sets

PLAIN = image_view.View(32)
RICH = image_view.View(
  64, low_resolution=16, crop=32, place="random", flip_probability=0.5
)
DAMAGED = 5


@pytest.fixture(scope="module")
def sets():
  """Three sets; in the first one record and one image are bad."""
  first = image_sets.source(24, seed=1)
  first.damaged = (DAMAGED,)
  bad = dataclasses.replace(first.rows[9], image=b"\xff\xd8\xff and no more")
  first.rows[9] = bad
  return first, image_sets.source(7, seed=2), image_sets.source(1, seed=3)


def _make(sources, view=PLAIN, **changes):
  return image_pipeline.make(sources, view, **({"batch_size": 4} | changes))


def _same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def _join(parts):
  return {
    name: [value for p in parts for value in p[name]]
    if isinstance(parts[0][name], list)
    else np.concatenate([p[name] for p in parts])
    for name in parts[0]
  }


def _ids(batches):
  return [key for made in batches for key in made["key"]]


def test_a_batch_is_a_function_of_seed_and_step(sets):
  one = _make(sets, RICH, seed=3)
  _same(one.batch_at(5), _make(sets, RICH, seed=3).batch_at(5))
  assert one.batch_at(5)["key"] != one.batch_at(6)["key"]
  assert one.batch_at(5)["key"] != _make(sets, RICH, seed=4).batch_at(5)["key"]


@pytest.mark.parametrize("host_count", [2, 4])
def test_hosts_make_the_parts_of_one_batch(sets, host_count):
  """Bad examples included: each host replaces its own as one host would."""
  one = _make(sets, RICH, batch_size=8)
  hosts = [
    _make(sets, RICH, batch_size=8, host_index=i, host_count=host_count)
    for i in range(host_count)
  ]
  for step in range(8):
    _same(one.batch_at(step), _join([host.batch_at(step) for host in hosts]))
  assert {host.fingerprint for host in hosts} == {one.fingerprint}


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_threads_and_the_start_change_nothing(sets, threads):
  straight = [_make(sets, RICH).batch_at(step) for step in range(16)]
  pipeline = _make(sets, RICH, threads=threads)
  for start in (0, 1, 9, 15):
    found = list(pipeline.batches(start, 16))
    assert len(found) == 16 - start
    for made, expected in zip(found, straight[start:], strict=True):
      _same(made, expected)


def test_two_epochs_cut_at_every_step():
  """Every example twice, none lost or repeated, wherever a run is cut."""
  source = image_sets.source(21, sides=(64,))
  pipeline = _make([source], image_view.View(8), batch_size=3, threads=1)
  whole = _ids(pipeline.batches(0, 14))
  for epoch in (whole[:21], whole[21:]):
    assert sorted(epoch) == [row.key for row in source.rows]
  assert whole[:21] != whole[21:]
  for cut in range(15):
    rest = _ids(pipeline.batches(cut, 14))
    before = _ids(itertools.islice(pipeline.batches(), cut))
    digest = hashlib.sha256("".join(before + rest).encode()).digest()
    assert digest == hashlib.sha256("".join(whole).encode()).digest()


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_batch_size_cuts_the_same_stream(sets, batch_size):
  alone = _make(sets[1:2], RICH, batch_size=1)
  pipeline = _make(sets[1:2], RICH, batch_size=batch_size)
  for step in range(2):
    start = step * batch_size
    parts = [alone.batch_at(start + row) for row in range(batch_size)]
    _same(pipeline.batch_at(step), _join(parts))


def test_reading_on_without_an_end(sets):
  pipeline = _make(sets[2:], batch_size=2)
  found = list(itertools.islice(pipeline.batches(10**9), 2))
  assert _ids(found) == ["3/0000"] * 4


def test_weights_set_the_shares_and_each_set_has_its_epochs(sets):
  clean = image_sets.source(12, seed=4)
  pipeline = _make([clean, sets[1], sets[2]], weights=(4, 2, 0), batch_size=6)
  ids = _ids(pipeline.batches(0, 7))
  first, second = ([k for k in ids if k[0] == name] for name in "42")
  assert (len(first), len(second)) == (28, 14)
  for one, size in ((first, 12), (second, 7)):
    for start in range(0, len(one) - size + 1, size):
      assert len(set(one[start : start + size])) == size


def test_by_default_all_sets_end_together(sets):
  clean = [image_sets.source(n, seed=n) for n in (5, 11)]
  ids = _ids(_make(clean, batch_size=16).batches(0, 2))
  assert len(set(ids[:16])) == len(set(ids[16:])) == 16


def test_sets_of_one_size_have_different_orders():
  twins = [image_sets.source(32, seed=seed, sides=(64,)) for seed in (1, 1)]
  number, index = _make(twins).locate(np.arange(64))
  assert (index[number == 0] != index[number == 1]).sum() > 20


def test_bad_examples_are_told_and_replaced(sets):
  told = []
  pipeline = _make(
    sets[:1],
    batch_size=6,
    report=lambda reject, step: told.append((reject, step)),
  )
  ids = _ids(pipeline.batches(0, 4))
  bad = {sets[0].rows[i].key for i in (DAMAGED, 9)}
  assert len(ids) == 24 and not bad & set(ids)
  assert len(set(ids)) >= 21  # those in place of the bad come twice
  # The record that cannot be read has no key.
  reasons = {reject.key: reject.reason for reject, _ in told}
  assert reasons.keys() == {f"record {DAMAGED} of set 0", "1/0009"}
  assert "record 5 is damaged" in reasons[f"record {DAMAGED} of set 0"]
  assert "damaged" in reasons["1/0009"]
  _, index = pipeline.locate(np.arange(24))
  for reject, step in told:
    if reject.key == "1/0009":
      assert 9 in index[6 * step : 6 * step + 6]
  # A run that goes on tells what an unbroken run tells.
  again = []
  other = dataclasses.replace(
    pipeline, report=lambda *args: again.append(args), threads=0
  )
  list(other.batches(2, 4))
  assert again == [row for row in told if row[1] >= 2]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_above_the_budget_the_run_stops_at_the_same_step(sets, threads):
  bad = image_sets.source(40, seed=5, sides=(64,))
  bad.damaged = tuple(range(0, 40, 4))
  whole = [_make([bad]).make_batch(step) for step in range(40)]
  counts = np.cumsum([len(made.rejects) for made in whole])
  pipeline = _make(
    [bad], threads=threads, budget=rejects.Budget(count=8, fraction=0.0)
  )
  batches = []
  with pytest.raises(errors.DataError, match="more than 8") as caught:
    for made in pipeline.batches(0, 40):
      batches.append(made)
  last = int(np.argmax(counts > 8))
  assert len(batches) == last
  assert f"up to step {last}" in str(caught.value)
  assert f"{counts[last]} of {4 * (last + 1) + counts[last]} ex" in str(caught)


def test_a_set_with_nothing_to_use_stops_at_once(sets):
  bad = image_sets.source(3, seed=6)
  bad.damaged = (0, 1, 2)
  with pytest.raises(errors.DataError, match="16 examples in a row"):
    next(_make([bad]).batches())


def test_small_images_are_left_out_unless_enlarged():
  small = image_sets.make(6, sides=(32,))
  rows = small + image_sets.make(6, seed=1, sides=(96,))
  source = image_sets.ListSource(rows)
  told = []
  view = image_view.View(64)
  pipeline = _make([source], view, report=lambda reject, _: told.append(reject))
  assert {key[0] for key in _ids(pipeline.batches(0, 3))} == {"1"}
  assert {reject.key for reject in told} == {row.key for row in small}
  assert all("smaller than the resolution 64" in r.reason for r in told)
  larger = _make([source], dataclasses.replace(view, upscale=True))
  assert sorted(_ids(larger.batches(0, 3))) == sorted(row.key for row in rows)


def test_grey_and_transparent_images():
  grey = np.full((40, 40), 51, np.uint8)
  clear = np.zeros((40, 40, 4), np.uint8)
  rows = [
    examples.Example("grey", "", image_sets.encode(grey, "png")),
    examples.Example("clear", "", image_sets.encode(clear, "png")),
  ]
  made = _make([image_sets.ListSource(rows)], batch_size=2).batch_at(0)
  shown = dict(zip(made["key"], made["image"], strict=True))
  np.testing.assert_array_equal(shown["clear"], 1)  # on white
  np.testing.assert_allclose(shown["grey"], 51 / 127.5 - 1, atol=1e-6)


def test_batches_fit_the_schema(sets):
  made = _make(sets, RICH).batch_at(0)
  fields = batch_lib.spec(
    4, resolution=32, low_resolution=8, max_length=1, text_width=1
  )
  names = ("image", "x_lr")
  batch_lib.check({n: made[n] for n in names}, {n: fields[n] for n in names})
  assert images.to_uint8(made["image"]).std() > 20


def test_sets_on_disk_are_read_as_in_memory(tmp_path):
  rows = image_sets.make(9)
  opened = examples.open_set(image_sets.write(tmp_path / "set", rows))
  disk, memory = (
    _make([one], RICH, threads=2)
    for one in (opened, image_sets.ListSource(rows))
  )
  for a, b in zip(disk.batches(0, 5), memory.batches(0, 5), strict=True):
    _same(a, b)


def test_the_showcase_has_whole_images_of_the_stream(sets):
  host = _make(sets, RICH, batch_size=8, host_index=1, host_count=2)
  shown = image_pipeline.showcase(host, 3)
  assert shown["image"].shape == (3, 64, 64, 3)
  assert shown["x_lr"].shape == (3, 16, 16, 3)
  first = _make(sets, RICH, batch_size=8).batch_at(0)
  assert shown["caption"] == first["caption"][:3]


def test_transform_runs_on_each_batch(sets):
  pipeline = _make(sets, transform=lambda made: {"n": len(made["key"])})
  assert list(pipeline.batches(0, 2)) == [{"n": 4}, {"n": 4}]


def test_fingerprint_changes_with_all_that_decides_the_stream(sets):
  base = _make(sets)
  assert base.fingerprint == _make(sets, threads=0).fingerprint
  others = [
    _make(sets, seed=1),
    _make(sets, batch_size=8),
    _make(sets, weights=(1, 1, 1)),
    _make(sets[:2]),
    _make(sets[::-1]),
    _make([image_sets.source(24, seed=9), *sets[1:]]),
  ]
  changes = (
    {"resolution": 16},
    {"low_resolution": 8},
    {"crop": 8},
    {"place": "random"},
    {"flip_probability": 0.5},
    {"flip_exempt": ("left",)},
    {"upscale": True},
  )
  assert {name for change in changes for name in change} == {
    field.name for field in dataclasses.fields(image_view.View)
  }
  others += [_make(sets, dataclasses.replace(PLAIN, **c)) for c in changes]
  assert len({base.fingerprint, *(o.fingerprint for o in others)}) == 14


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"batch_size": 6, "host_count": 4}, "batch_size 6 is not divisible by 4"),
    ({"host_index": 2, "host_count": 2}, "host 2 of 2"),
    ({"host_count": 0}, "not divisible by 0"),
    ({"threads": -1}, "threads -1"),
    ({"weights": (1, 2)}, "2 weights for 3 sets"),
    ({"weights": (1, 2, -1)}, "not shares"),
  ],
)
def test_bad_arguments(sets, changes, match):
  with pytest.raises(errors.BadInput, match=match):
    _make(sets, **changes)


def test_empty_sets(sets):
  empty = image_sets.ListSource([])
  with pytest.raises(errors.BadInput, match="set 1 is empty"):
    _make([sets[0], empty], weights=(1, 1))
  assert len(_make([sets[0], empty]).batch_at(0)["key"]) == 4
  with pytest.raises(errors.BadInput, match="not shares"):
    _make([empty])


def test_negative_steps(sets):
  with pytest.raises(errors.BadInput, match="negative"):
    _make(sets).batch_at(-1)
