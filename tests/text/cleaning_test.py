"""Cleaning of captions: equal to DeepFloyd IF's, safe, and of linear time."""

import importlib.util
import json
import pathlib
import random
import time

import pytest

from imagen_jax.core import errors
from imagen_jax.text import cleaning

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ROWS = json.loads((GOLDEN / "text_preprocessing.json").read_bytes())["rows"]
ODD = (
  "\0",
  "\ud800",
  "<b>\udfff & \ud83d\ude00",
  "\u202eright \u0645\u0631\u062d\u0628\u0627 to left",
  "\r\n\t\x1c\x85\u2028",
  "<![cdata",
  "<?xml <!-- </",
  "%00%ff%",
  "&#99999999999;",
  f"&#{'9' * 5000};",
  f"&amp;#{'9' * 5000};",
)


@pytest.fixture(params=["none", "lower", "deepfloyd"])
def each(request):
  if request.param == "deepfloyd":
    needs_libraries()
  return cleaning.cleaner(request.param)


@pytest.fixture
def deepfloyd():
  needs_libraries()
  return cleaning.cleaner("deepfloyd")


def needs_libraries():
  for name in ("bs4", "ftfy"):
    pytest.importorskip(name, reason=f"{name} comes with imagen_jax[t5]")


def odd_texts(n):
  parts = [*"aZ1._-@#&<>%'\": \t\n/é日\u0645\0\ud800\U0001f600", *ODD]
  draw = random.Random(0)
  return ["".join(draw.choices(parts, k=draw.randrange(9))) for _ in range(n)]


def test_nothing_raises(each):
  for text in [*ODD, *odd_texts(500)]:
    assert isinstance(each(text), str)


def test_lowering_twice_is_lowering_once():
  lower = cleaning.cleaner("lower")
  texts = [row["raw"] for row in ROWS] + odd_texts(500)
  assert [lower(lower(text)) for text in texts] == [lower(t) for t in texts]
  assert lower(" A ") == "a"


def test_clean_captions_stay_as_they_are(deepfloyd):
  cleaned = [row["clean_caption"] for row in ROWS]
  assert [deepfloyd(text) for text in cleaned] == cleaned
  # Not so in general: each run takes a sign off each end.
  assert deepfloyd(",,,,a") == ",, a"
  assert deepfloyd(",, a") == "a"


def test_what_comes_out_is_one_valid_line(deepfloyd):
  for text in [*ODD, *odd_texts(500)]:
    cleaned = deepfloyd(text)
    assert cleaned == cleaned.strip()
    assert "\n" not in cleaned
    cleaned.encode()


def test_none_changes_nothing():
  for text in [*ODD, *odd_texts(50)]:
    assert cleaning.clean("none", text) == text


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_equals_deepfloyd(deepfloyd, row):
  assert deepfloyd(row["raw"]) == row["clean_caption"]


def test_equals_lower_and_strip():
  for row in ROWS:
    assert cleaning.clean("lower", row["raw"]) == row["lower_strip"]
  changed = [r for r in ROWS if r["lower_strip"] != r["clean_caption"]]
  assert len(changed) > 30


# Where the patterns are not the plain ones, which would give the same, but in
# quadratic time.
@pytest.mark.parametrize(
  ("raw", "expected"),
  [
    ("a.com b", "b"),
    ("me@a.com b", "me b"),
    ("a-http://b.org", "a"),
    ("x https://b.org/a_b?q", "x ?q"),
    ("a.com/x.b.net c", "c"),
    ("see a.b.com.c d", "see c d"),
    ("\u00e9.com", "\u00e9. com"),
    ("\u00e9a.b.com", "\u00e9a"),
    ("www.a.b", "www. a. b"),
    ("see a.png.b.png.c", "see c"),
    ("a . b", "a b"),
    ("1.5x22 b", "1. b"),
    ("12x34", ""),
    ("12x3a b", "12x3a b"),
    ("a12b34c5 d", "d"),
  ],
)
def test_edges(deepfloyd, raw, expected):
  assert deepfloyd(raw) == expected


@pytest.mark.parametrize(
  "unit", ["a", "a-", "1_", " ", "a.com", "\\n", "@a", "a1", "<a", "\ud800"]
)
def test_a_long_text_takes_no_longer_than_it_should(deepfloyd, unit):
  text = unit * (100_000 // len(unit))
  start = time.perf_counter()
  deepfloyd(text)
  # 0.2 s here; the plain patterns would take from 20 s to an hour.
  assert time.perf_counter() - start < 10


def test_a_long_text_full_of_tags_is_not_read_as_markup(deepfloyd):
  assert deepfloyd("<i>a</i>" * 100) == "a" * 100
  assert deepfloyd("<i>a</i>" * 2000).startswith("<i>a< i>")


def test_an_unknown_name_is_refused():
  with pytest.raises(errors.BadInput) as caught:
    cleaning.cleaner("deepfloid")
  assert str(caught.value) == (
    "unknown cleaning 'deepfloid'; known: none, lower, deepfloyd."
    " Did you mean 'deepfloyd'?"
  )
  with pytest.raises(errors.BadInput, match="lower, deepfloyd.$"):
    cleaning.clean("x", "a")


def test_libraries_that_are_missing_are_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
  with pytest.raises(
    errors.BadInput, match=r'needs bs4 and ftfy; .*"imagen_jax\[t5\]"'
  ):
    cleaning.cleaner("deepfloyd")
  assert cleaning.cleaner("lower")("A") == "a"
