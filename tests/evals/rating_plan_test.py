"""Trials, controls and blind sides; sets that do not go together."""

import collections
import json

import pytest

from imagen_jax.core import errors, images
from imagen_jax.evals import image_set, prompts, rating_plan
from tests.evals import rating_sets


def test_sides_are_balanced_and_each_rater_has_own_ones(tmp_path):
  plan = rating_plan.make(
    *rating_sets.pair(tmp_path, n=40, samples=1), protocol="drawbench"
  )
  assert len(plan.trials) == 44
  turns = [rating_plan.schedule(plan, rater) for rater in (1, 2)]
  for some in turns:
    assert sorted(turn.trial for turn in some) == list(range(44))
    assert collections.Counter(turn.left for turn in some) == {"a": 22, "b": 22}
  assert turns[0] != turns[1]
  assert turns[0] == rating_plan.schedule(plan, 1)  # the same after a restart
  agree = sum(dict(turns[0])[t.trial] == t.left for t in turns[1])
  assert 10 < agree < 34


def test_meaning_undoes_the_sides():
  a_left, b_left = rating_plan.Turn(0, "a"), rating_plan.Turn(0, "b")
  assert rating_plan.meaning(a_left, "left") == "a"
  assert rating_plan.meaning(b_left, "left") == "b"
  assert rating_plan.meaning(b_left, "right") == "a"
  assert rating_plan.meaning(b_left, "indifferent") == "indifferent"


def test_controls_have_a_side_of_another_prompt_made_coarse(tmp_path):
  plan = rating_plan.make(
    *rating_sets.pair(tmp_path, n=10), protocol="drawbench", control_every=5
  )
  controls = [trial for trial in plan.trials if trial.expected]
  files = {t.prompt: {s.file for s in t.a} for t in plan.trials[:10]}
  assert len(controls) == 2
  for trial in controls:
    assert trial.expected == {"quality": ["a"], "alignment": ["a"]}
    assert {s.file for s in trial.a} == files[trial.prompt]
    assert not {s.file for s in trial.b} & files[trial.prompt]
    assert [s.coarse for s in (*trial.a, *trial.b)] == [False] * 2 + [True] * 2


def test_coco_asks_what_is_real_and_each_image_alone(tmp_path):
  plan = rating_plan.make(
    *rating_sets.pair(tmp_path, n=6, samples=1),
    protocol="coco", control_every=6,
  )  # fmt: skip
  kinds = collections.Counter((t.kind, bool(t.expected)) for t in plan.trials)
  assert kinds["real", False] == 6
  assert kinds["single", False] == 12
  assert sum(n for (_, control), n in kinds.items() if control) == 3
  assert {t.category for t in plan.trials} <= {"Text", "Colors"}
  alone = [t.a[0].source for t in plan.trials if t.kind == "single"][:12]
  assert sorted(alone) == ["a"] * 6 + ["b"] * 6


def test_a_plan_is_the_same_after_its_file(tmp_path):
  sets = rating_sets.pair(tmp_path)
  plan = rating_plan.make(*sets, protocol="drawbench", control_every=2)
  text = json.dumps(rating_plan.to_json(plan))
  assert rating_plan.from_json(json.loads(text)) == plan
  assert rating_plan.make(*sets, protocol="drawbench", control_every=2) == plan
  path = tmp_path / "b" / "001-0.png"
  pixels = images.read_png(path)[0]
  pixels = pixels.copy()
  pixels[0, 0] ^= 1
  images.write_png(path, pixels)
  again = rating_plan.make(*sets, protocol="drawbench", control_every=2)
  assert again.digest != plan.digest


def test_a_category_or_some_prompts(tmp_path):
  sets = rating_sets.pair(tmp_path, n=8)
  some = rating_plan.make(
    *sets, protocol="drawbench", category="Colors", control_every=0
  )
  assert {t.category for t in some.trials} == {"Colors"}
  few = rating_plan.make(
    *sets, protocol="drawbench", limit=3, control_every=0, samples=1
  )
  assert [len(t.a) for t in few.trials] == [1, 1, 1]
  with pytest.raises(errors.BadInput, match="the set has Colors, Text"):
    rating_plan.make(*sets, protocol="drawbench", category="Reddit")


def test_sets_of_different_prompts_are_refused(tmp_path):
  a, _ = rating_sets.pair(tmp_path)
  other = image_set.read(rating_sets.write(tmp_path / "other", n=5))
  with pytest.raises(errors.BadInput, match="different prompts: 0 .* and 1 "):
    rating_plan.make(a, other, protocol="drawbench")


def test_a_set_without_a_manifest_is_read_by_its_records(tmp_path):
  a, _ = rating_sets.pair(tmp_path)
  pixels = images.read_png(a.folder / "001-0.png")[0]
  for name, stage, size in (("x", "sr", 8), ("y", "base", 4), ("z", "", 8)):
    chunks = {"prompt": "an owl", "index": "3"}
    chunks |= {"stage": stage} if stage else {}
    images.write_png(tmp_path / f"s/{name}.png", pixels[:size, :size], chunks)
  found = image_set.read(tmp_path / "s")
  assert found.entries == (image_set.Entry("x.png", "an owl", "", 3),)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"file": "../a.png"}, "not the name of an image beside it"),
    ({"file": "/etc/passwd"}, "not the name of an image beside it"),
    ({"file": "a.txt"}, "not the name of an image beside it"),
    ({"prompt": 3}, "is no text"),
    ({"index": "x"}, "is no number"),
    ({"file": "gone.png"}, "are not there"),
  ],
)
def test_a_bad_manifest_is_one_line(tmp_path, change, message):
  row = {"file": "a.png", "prompt": "an owl", "category": "", "index": 0}
  value = {"kind": "image_set", "schema": 1, "images": [row | change]}
  (tmp_path / image_set.MANIFEST).write_text(json.dumps(value))
  with pytest.raises(errors.BadInput, match=message) as caught:
    image_set.read(tmp_path)
  assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path):
  with pytest.raises(errors.BadInput, match="prompts of its images are not"):
    image_set.read(tmp_path)
  with pytest.raises(errors.BadInput, match="is no folder"):
    image_set.read(tmp_path / "none")


def test_tables_of_prompts(tmp_path):
  csv = tmp_path / "d.csv"
  csv.write_text('Prompts,Category\n"A red, car.",Colors\nA cat.,Reddit\n')
  assert prompts.read(str(csv)) == [
    ("A red, car.", "Colors"), ("A cat.", "Reddit"),
  ]  # fmt: skip
  tsv = tmp_path / "p.tsv"
  tsv.write_text('Prompt\tCategory\tChallenge\tNote\na "b\tArts\tBasic\t\n')
  assert prompts.read(str(tsv)) == [('a "b', "Arts")]
  txt = tmp_path / "p.txt"
  txt.write_bytes("an owl\r\n\nan owl\n a\tcrab \n".encode("utf-8-sig"))
  assert [p.text for p in prompts.read(str(txt))] == ["an owl", "a crab"]
  assert sum(prompts.DRAWBENCH.values()) == 200
  assert len(prompts.DRAWBENCH) == 11
  assert len(prompts.read("paper")) == 10


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("p.csv", b"a,b\n1,2\n", "no column of prompts among a, b"),
    ("p.txt", b"\n \n", "holds no prompt"),
    ("p.txt", b"\xff\xfe", "not UTF-8"),
    ("none.txt", None, "cannot read prompts"),
  ],
)
def test_lists_that_are_refused(tmp_path, name, data, message):
  if data is not None:
    (tmp_path / name).write_bytes(data)
  with pytest.raises(errors.BadInput, match=message):
    prompts.read(str(tmp_path / name))
