"""Vocabularies: T5's real one, sentencepiece, and files that are damaged."""

import json
import logging
import pathlib
import random
import shutil

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.text import cleaning, tokenizers, vocabularies
from tests import t5_vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SPIECE = GOLDEN / "t5" / "tokenizer" / "spiece.model"
GERMAN = "translate English to German: The house is wonderful."
GERMAN_IDS = [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]
ODD = [
  "",
  " ",
  "\n",
  "trailing  ",
  " both\t sides \r\n",
  "a\r\nb\rc",
  "مرحبا بالعالم",
  "שלום \u200f עולם",
  "苹果 and 🍎🏽 and ﬁne",
  "e\u0301 é ½ \uff21\uff22",
  "don't stop—it's 7:30 p.m. (sharp)",
  "x" * 300,
  "a\u00a0b\u2028c\u3000d",
]


@pytest.fixture(scope="module")
def t5():
  return vocabularies.t5()


@pytest.fixture(scope="module")
def same_from_sentencepiece(tmp_path_factory):
  """The T5 vocabulary again, as a sentencepiece model."""
  path = tmp_path_factory.mktemp("t5") / "spiece.model"
  t5_vocabulary.sentencepiece_model(path)
  return vocabularies.load(path)


def golden_rows():
  return json.loads((GOLDEN / "text_preprocessing.json").read_text())["rows"]


def test_t5_gives_the_published_ids(t5, same_from_sentencepiece):
  for tokenizer in (t5, same_from_sentencepiece):
    ids, mask = tokenizers.tokenize(tokenizer, [GERMAN], max_length=128)
    assert list(ids[0, mask[0]]) == GERMAN_IDS
    assert not ids[0, len(GERMAN_IDS) :].any()
  assert t5.vocab_size == 32_100
  assert (t5.special, t5.unknown_id) == (1, 2)


def test_both_libraries_cut_t5_alike(t5, same_from_sentencepiece):
  rng = random.Random(0)
  text = "a an the red Apple apples, (crab) under-water 3,000 naïve"
  words = text.split()
  spaces = [" ", "  ", " \t", "\n", ". ", "-"]
  random_texts = [
    "".join(rng.choice(words) + rng.choice(spaces) for _ in range(12))
    for _ in range(200)
  ]
  texts = [*ODD, *random_texts, *(row["raw"] for row in golden_rows())]
  ours = t5.split(texts)
  theirs = same_from_sentencepiece.split(texts)
  for text, a, b in zip(texts, ours, theirs, strict=True):
    assert list(a.ids) == list(b.ids), text


def test_ids_of_captions_equal_transformers():
  tokenizer = vocabularies.load(SPIECE)
  rows = golden_rows()
  cleaned = [cleaning.clean("deepfloyd", row["raw"]) for row in rows]
  ids, mask = tokenizers.tokenize(tokenizer, cleaned, max_length=77)
  np.testing.assert_array_equal(ids, [row["input_ids"] for row in rows])
  np.testing.assert_array_equal(mask.sum(1), [row["n_tokens"] for row in rows])
  # Without cleaning they are others.
  raw = [row["raw"] for row in rows]
  assert not np.array_equal(
    ids, tokenizers.tokenize(tokenizer, raw, max_length=77).ids
  )


@pytest.mark.parametrize("which", ["t5", "same_from_sentencepiece"])
def test_the_words_that_t5_loses_are_told(which, request, caplog):
  tokenizer = request.getfixturevalue(which)
  caption = "naïve café crabs " + "under the wonderful houses"
  with caplog.at_level(logging.WARNING):
    tokenizers.tokenize(tokenizer, [caption], max_length=9)
  kept = tokenizers.ragged(tokenizer, [caption], max_length=9)
  assert kept.cut[0] and caption.endswith(kept.cut[0])
  assert repr(kept.cut[0]) in caplog.text
  assert kept.ids[0][-1] == 1 and len(kept.ids[0]) == 9


@pytest.mark.parametrize("which", ["t5", "same_from_sentencepiece"])
def test_unknown_pieces_are_named(which, request, caplog):
  tokenizer = request.getfixturevalue(which)
  with caplog.at_level(logging.WARNING):
    tokenizers.tokenize(tokenizer, ["naïve 苹果 apple"], max_length=16)
  assert "苹果" in caplog.text and "naïve" not in caplog.text


@pytest.mark.parametrize("which", ["t5", "same_from_sentencepiece"])
def test_a_megabyte_of_text(which, request):
  tokenizer = request.getfixturevalue(which)
  rows = tokenizers.ragged(tokenizer, ["word " * 200_000], max_length=128)
  assert len(rows.ids[0]) == 128
  assert len(rows.cut[0]) > 900_000


def test_the_digest_is_of_the_files(tmp_path):
  a = vocabularies.load(SPIECE)
  shutil.copy(SPIECE, tmp_path / "spiece.model")
  assert vocabularies.load(tmp_path).sha256 == a.sha256
  # Of the JSON, packed or not.
  (tmp_path / "tokenizer.json").write_bytes(vocabularies.t5_json())
  unpacked = vocabularies.load(tmp_path / "tokenizer.json")
  assert unpacked.sha256 == vocabularies.t5().sha256 != a.sha256
  assert unpacked.sha256.startswith("fe2ebbbbde2985be")


def test_a_folder_of_word_pieces(tmp_path, tiny_folder):
  whole = vocabularies.load(tiny_folder)
  listed = json.loads((tiny_folder / "tokenizer.json").read_text())["model"]
  (tmp_path / "vocab.txt").write_text("\n".join(listed["vocab"]) + "\n")
  plain = vocabularies.load(tmp_path)
  texts = ["a Red apple", "Crabs!", ""]
  assert [p.ids for p in plain.split(texts)] == [
    p.ids for p in whole.split(texts)
  ]
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
  cased = vocabularies.load(tmp_path)
  assert cased.split(["Red"])[0].ids != plain.split(["Red"])[0].ids
  assert cased.sha256 != plain.sha256
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower')
  with pytest.raises(errors.CheckpointError, match="not readable JSON"):
    vocabularies.load(tmp_path)


def test_missing_and_corrupt_files(tmp_path):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(errors.BadInput, match="does not exist"):
    vocabularies.load(path)
  path.write_text('{"version": "1.0"')
  with pytest.raises(errors.CheckpointError, match="corrupt"):
    vocabularies.load(path)
  model = tmp_path / "spiece.model"
  model.write_bytes(SPIECE.read_bytes()[:1000])
  with pytest.raises(errors.CheckpointError, match=r"spiece\.model is corrupt"):
    vocabularies.load(model)
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(errors.BadInput, match=r"holds no tokenizer\.json"):
    vocabularies.load(empty)
