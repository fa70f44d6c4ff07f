"""Tokenising: fixed shapes, odd prompts, what the user is told."""

import logging

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import tokenizers, vocabularies


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
  return vocabularies.load(tiny_folder / "tokenizer.json")


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def ids_of(tokenizer, *words):
  """The ids of pieces; of words, those after the start token."""
  ids = []
  for word in words:
    if word in SPECIAL:
      ids.append(SPECIAL.index(word))
    else:
      ids.append(tokenizer.split([word.removeprefix("##")])[0].ids[1])
  return ids


def test_fixed_length_with_a_mask(tokenizer):
  ids, mask = tokenizers.tokenize(
    tokenizer, ["a red apple", "Crabs!"], max_length=8
  )
  assert ids.dtype == np.int32
  assert mask.dtype == np.bool_
  first = ids_of(tokenizer, "[CLS]", "a", "red", "apple", "[SEP]")
  second = [*ids_of(tokenizer, "[CLS]", "crab"), 11]
  second += ids_of(tokenizer, "!", "[SEP]")  # 11 is "##s"
  np.testing.assert_array_equal(ids, [first + 3 * [0], second + 3 * [0]])
  np.testing.assert_array_equal(mask.sum(1), [5, 5])
  np.testing.assert_array_equal(mask, np.sort(mask)[:, ::-1])


@pytest.mark.parametrize("caption", ["", "   ", "\0", "\t\n"])
def test_empty_prompts_are_start_and_end(tokenizer, caption):
  ids, mask = tokenizers.tokenize(tokenizer, [caption], max_length=5)
  assert list(ids[0, :2]) == ids_of(tokenizer, "[CLS]", "[SEP]")
  assert list(mask[0]) == [True, True, False, False, False]


def test_no_captions(tokenizer):
  ids, mask = tokenizers.tokenize(tokenizer, [], max_length=5)
  assert ids.shape == mask.shape == (0, 5)


def test_nul_is_dropped(tokenizer):
  a = tokenizers.tokenize(tokenizer, ["re\0d app\0le"], max_length=8)
  b = tokenizers.tokenize(tokenizer, ["red apple"], max_length=8)
  np.testing.assert_array_equal(a.ids, b.ids)


def test_a_lone_surrogate_is_read_as_a_question_mark(tokenizer, caplog):
  a = tokenizers.tokenize(tokenizer, ["red \ud83d apple"], max_length=8)
  b = tokenizers.tokenize(tokenizer, ["red ? apple"], max_length=8)
  np.testing.assert_array_equal(a.ids, b.ids)


def test_the_words_that_were_cut_are_shown(tokenizer, caplog):
  caption = "a red apple on a blue car"
  with caplog.at_level(logging.WARNING):
    ids, mask = tokenizers.tokenize(tokenizer, [caption], max_length=6)
  assert list(ids[0]) == ids_of(
    tokenizer, "[CLS]", "a", "red", "apple", "on", "[SEP]"
  )
  assert mask.all()
  assert "'a blue car'" in caplog.text
  assert "6 tokens" in caplog.text


def test_a_half_read_word_counts_as_cut(tokenizer, caplog):
  with caplog.at_level(logging.WARNING):
    tokenizers.tokenize(tokenizer, ["red crabs"], max_length=4)
  assert "'crabs'" in caplog.text


def test_a_prompt_that_just_fits_is_not_cut(tokenizer, caplog):
  with caplog.at_level(logging.WARNING):
    tokenizers.tokenize(tokenizer, ["a red apple on"], max_length=6)
  assert not caplog.records


def test_a_very_long_prompt_gives_a_short_warning(tokenizer, caplog):
  with caplog.at_level(logging.WARNING):
    ids, _ = tokenizers.tokenize(tokenizer, ["red " * 50_000], max_length=6)
  assert ids.shape == (1, 6)
  assert "more characters" in caplog.text
  assert len(caplog.text) < 600


def test_many_cut_prompts_give_few_warnings(tokenizer, caplog):
  with caplog.at_level(logging.WARNING):
    tokenizers.tokenize(tokenizer, ["red " * 9] * 50, max_length=6)
  assert len(caplog.records) == 4
  assert "47 more prompts" in caplog.text


@pytest.mark.parametrize("word", ["🦀", "苹果", "яблоко"])
def test_unknown_words_are_named(tokenizer, caplog, word):
  with caplog.at_level(logging.WARNING):
    ids, mask = tokenizers.tokenize(
      tokenizer, [f"red {word} apple"], max_length=8
    )
  assert tokenizer.unknown_id == 1 and 1 in ids[0]
  assert mask.sum() >= 5
  assert "does not know" in caplog.text
  assert word[0] in caplog.text


def test_captions_must_be_text():
  # The inner function: type-checked tests stop at the outer signature.
  with pytest.raises(errors.BadInput, match="caption 1 is int, expected str"):
    tokenizers._text(7, 1)


def test_no_room_for_words(tokenizer):
  with pytest.raises(errors.BadInput, match=r"max_length 2.* at least 3"):
    tokenizers.tokenize(tokenizer, ["red"], max_length=2)


def test_ragged_rows_are_the_unpadded_ones(tokenizer):
  captions = ["a red apple on a blue car", "", "crabs"]
  rows, cut, unknown = tokenizers.ragged(tokenizer, captions, max_length=6)
  ids, mask = tokenizers.tokenize(tokenizer, captions, max_length=6)
  for row, padded, real in zip(rows, ids, mask, strict=True):
    np.testing.assert_array_equal(row, padded[real])
  assert cut == ["a blue car", "", ""]
  assert unknown == ["", "", ""]
  padded = tokenizers.pad(rows, 9, pad_id=7)
  assert padded.ids.shape == (3, 9)
  assert np.all(padded.ids[~padded.mask] == 7)
