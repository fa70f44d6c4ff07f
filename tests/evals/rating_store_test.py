"""Answers are kept once, each with its rater, and a study is held to its plan.

That kills lose none is in tests/serve/rating_kills_test.py.
"""

import os
import sqlite3
import threading

import pytest

from imagen_jax.core import errors
from imagen_jax.evals import rating_plan, rating_store
from tests.evals import rating_sets

BOTH = {"quality": "left", "alignment": "indifferent"}


@pytest.fixture
def plan(tmp_path):
  return rating_plan.make(
    *rating_sets.pair(tmp_path, n=12), protocol="drawbench"
  )


@pytest.fixture
def store(plan, tmp_path):
  opened = rating_store.create(tmp_path / "r.sqlite", plan, raters=3)
  yield opened
  opened.close()


def test_the_first_answer_is_final(store):
  other = BOTH | {"quality": "right"}
  said = [store.answer(1, 0, c) for c in (BOTH, BOTH, other, BOTH)]
  assert said == ["kept", "repeated", "refused", "repeated"]
  assert store.answer(2, 0, other) == "kept"
  assert [(a.rater, a.trial, a.choices) for a in store.answers()] == [
    (1, 0, BOTH), (2, 0, other),
  ]  # fmt: skip
  assert (store.answered(1), store.answered(3)) == ({0}, set())


def test_one_answer_sent_by_eight_threads_is_kept_once(store):
  said = []
  threads = [
    threading.Thread(target=lambda: said.append(store.answer(1, 5, BOTH)))
    for _ in range(8)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(said) == ["kept"] + ["repeated"] * 7


def test_tokens_are_long_different_and_only_exact_ones_fit(store):
  tokens = store.tokens()
  assert sorted(tokens) == [1, 2, 3]
  assert len(set(tokens.values())) == 3
  assert all(len(token) == 32 for token in tokens.values())
  assert store.rater(tokens[2]) == 2
  for wrong in ("", tokens[2][:-1], tokens[2] + "x", tokens[2].lower(), "é\0"):
    assert store.rater(wrong) is None


def test_a_commit_waits_for_the_disk_and_the_file_is_private(store, tmp_path):
  connection = store._connection
  assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
  assert connection.execute("pragma synchronous").fetchone() == (2,)  # full
  assert os.stat(tmp_path / "r.sqlite").st_mode & 0o777 == 0o600
  assert os.stat(tmp_path / "r.sqlite-wal").st_mode & 0o777 == 0o600


def test_a_study_goes_on_with_more_raters(store, plan, tmp_path):
  store.answer(1, 3, BOTH)
  again = rating_store.create(tmp_path / "r.sqlite", plan, raters=5)
  assert again.tokens().items() >= store.tokens().items()
  assert len(again.tokens()) == 5
  assert again.answered(1) == {3}
  assert again.plan == plan
  again.close()
  opened = rating_store.open_study(tmp_path / "r.sqlite")
  assert len(opened.tokens()) == 5
  opened.close()


def test_another_plan_is_refused(store, tmp_path):
  other = rating_plan.make(
    *rating_sets.pair(tmp_path, n=12), protocol="drawbench", seed=1
  )
  with pytest.raises(errors.BadInput, match="study of other images"):
    rating_store.create(tmp_path / "r.sqlite", other, raters=1)


@pytest.mark.parametrize(
  ("trial", "choices", "message"),
  [
    (99, BOTH, "no trial 99"),
    (-1, BOTH, "no trial -1"),
    (0, {"quality": "left"}, "'alignment' takes left, indifferent, right"),
    (0, BOTH | {"quality": "a"}, "given was 'a'"),
    (0, BOTH | {"real": "left"}, "nothing was asked about 'real'"),
  ],
)
def test_answers_to_what_was_not_asked(store, trial, choices, message):
  with pytest.raises(errors.BadInput, match=message):
    store.answer(1, trial, choices)
  with pytest.raises(sqlite3.IntegrityError):
    store.answer(9, 0, BOTH)  # no such rater
  assert store.answers() == []


def test_files_that_hold_no_study(tmp_path):
  with pytest.raises(errors.BadInput, match="is not there"):
    rating_store.open_study(tmp_path / "none")
  path = tmp_path / "text"
  path.write_text("not a database, but long enough to look at " * 20)
  with pytest.raises(errors.BadInput, match="cannot be used"):
    rating_store.open_study(path)
  sqlite3.connect(tmp_path / "empty").close()
  (tmp_path / "empty").touch()
  with pytest.raises(errors.BadInput, match="holds no study"):
    rating_store.open_study(tmp_path / "empty")
