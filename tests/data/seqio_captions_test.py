"""Captions as seqio tasks, and out of seqio's tasks and mixtures."""

import pathlib
import sys

import numpy as np
import pytest
import sentencepiece

from imagen_jax.core import errors
from imagen_jax.data import caption_sources, seqio_captions
from imagen_jax.text import tokenizers, vocabularies
from tests import t5_vocabulary

# Protobuf raises an error of its own where versions do not fit.
seqio = pytest.importorskip("seqio", exc_type=Exception)
tf = pytest.importorskip("tensorflow")

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SPIECE = GOLDEN / "t5" / "tokenizer" / "spiece.model"
GERMAN = "translate English to German: The house is wonderful."
GERMAN_IDS = [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]
TEXTS = [
  "a red apple",
  "",
  "  two  spaces ",
  "שלום, nul \0 and\nnewline",
  "crab 🦀 ﬁ ½",
  "a red apple on a table " * 20,
]


@pytest.fixture(autouse=True)
def registry():
  """What a test registers is gone after it."""
  registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
  before = [set(r.names()) for r in registries]
  yield
  for r, names in zip(registries, before, strict=True):
    for name in set(r.names()) - names:
      r.remove(name)


def register(name="ours", source=None, vocabulary=SPIECE, **options):
  source = {"train": TEXTS, "val": TEXTS[:1]} if source is None else source
  return seqio_captions.register_caption_task(
    name, source=source, vocabulary=vocabulary, **options
  )


def converted(name="ours", length=128, split="train"):
  dataset = seqio.get_dataset(
    name,
    {"caption": length},
    seqio_captions.feature_converter(),
    split,
    shuffle=False,
  )
  return list(dataset.as_numpy_iterator())


def expected_ids(texts, length, model=SPIECE):
  """By sentencepiece itself: pieces, cut for the end token."""
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  return [[*processor.encode(text)[: length - 1], 1] for text in texts]


def test_importing_registers_nothing():
  assert "ours" not in seqio.TaskRegistry.names()
  task = register()
  assert seqio.TaskRegistry.get("ours") is task
  assert list(task.output_features) == ["caption"]
  assert set(task.splits) == {"train", "val"}


@pytest.mark.parametrize("length", [5, 128])
def test_ids_are_those_of_sentencepiece(length):
  register()
  rows = converted(length=length)
  expected = expected_ids(TEXTS, length)
  assert max(map(len, expected)) == length
  for row, ids in zip(rows, expected, strict=True):
    assert row["ids"].dtype == np.int32
    assert row["mask"].dtype == np.bool_
    assert row["ids"].shape == row["mask"].shape == (length,)
    assert list(row["ids"][row["mask"]]) == ids
    assert list(row["mask"]) == [True] * len(ids) + [False] * (
      length - len(ids)
    )
    assert not row["ids"][len(ids) :].any()


def test_ids_are_those_of_our_tokenizers():
  register()
  rows = converted()
  tokens = tokenizers.tokenize(vocabularies.load(SPIECE), TEXTS, max_length=128)
  np.testing.assert_array_equal([row["ids"] for row in rows], tokens.ids)
  np.testing.assert_array_equal([row["mask"] for row in rows], tokens.mask)


def test_the_shorter_of_both_lengths_counts():
  task = register(max_length=7)
  unasked = task.get_dataset(split="train", shuffle=False)
  ids = [list(row["caption"]) for row in unasked.as_numpy_iterator()]
  assert ids == expected_ids(TEXTS, 7)
  for asked, length in ((5, 5), (20, 7)):
    rows = converted(length=asked)
    assert [list(r["ids"][r["mask"]]) for r in rows] == expected_ids(
      TEXTS, length
    )


def test_the_vocabulary_of_t5_gives_the_published_ids(tmp_path):
  path = tmp_path / "spiece.model"
  t5_vocabulary.sentencepiece_model(path)
  vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=100)
  assert vocabulary.vocab_size == 32_100
  register(source={"train": [GERMAN]}, vocabulary=vocabulary)
  (row,) = converted()
  assert list(row["ids"][row["mask"]]) == GERMAN_IDS
  other = expected_ids(["The house is wonderful."], 128, path)[0]
  assert other != GERMAN_IDS


def test_a_source_of_seqio_with_several_captions_an_example():
  texts = [["a", "b c"], [], ["d"]]

  def dataset(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_generator(
      lambda: ({"captions": {"text": t}} for t in texts),
      output_signature={"captions": {"text": tf.TensorSpec([None], tf.string)}},
    )

  source = seqio.FunctionDataSource(dataset, splits=["train"])
  register(source=source, field="captions/text")
  rows = converted()
  expected = expected_ids(["a", "b c", "d"], 128)
  assert [list(r["ids"][r["mask"]]) for r in rows] == expected
  assert list(caption_sources.open_captions("seqio:ours")) == ["a", "b c", "d"]
  register("wrong", source=source, field="captions/texts")
  with pytest.raises(errors.BadInput, match=r"it has: text\. Did you mean"):
    converted("wrong")


def test_a_source_of_lines(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("one\n\ntwo\n")
  register(source=seqio.TextLineDataSource({"train": str(path)}))
  captions = list(caption_sources.open_captions("seqio:ours"))
  assert captions == ["one", "", "two"]


def test_a_name_can_be_registered_once():
  register()
  with pytest.raises(errors.BadInput, match="already has a task .* 'ours'"):
    register()
  with pytest.raises(errors.BadInput, match="max_length 0 leaves no room"):
    register("other", max_length=0)


def test_captions_come_back_from_a_task(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("from a file\n\n")
  register(
    source={"train": TEXTS, "val": caption_sources.open_captions(str(path))}
  )
  train = caption_sources.open_captions("seqio:ours")
  assert list(train) == list(train) == TEXTS
  assert list(caption_sources.open_captions("seqio:ours:val")) == [
    "from a file",
    "",
  ]


def test_a_mixture_gives_each_caption_once():
  register("b:few", source={"train": ["b"]})
  register("a:many", source={"train": [f"a {i}" for i in range(9)]})
  register("c:other", source={"val": ["c"]})
  seqio.MixtureRegistry.add("mix", [("b:few", 9.0), ("a:many", 1)])
  seqio.MixtureRegistry.add("outer", [("mix", 1.0), ("c:other", 1.0)])
  expected = [*(f"a {i}" for i in range(9)), "b"]
  assert list(caption_sources.open_captions("seqio:mix")) == expected
  assert list(caption_sources.open_captions("seqio:outer:train")) == expected
  assert list(caption_sources.open_captions("seqio:outer:val")) == ["c"]
  assert list(caption_sources.open_captions("seqio:b:few")) == ["b"]


def test_the_module_of_a_user_registers_tasks(tmp_path, monkeypatch):
  (tmp_path / "their_tasks.py").write_text(
    "import seqio\n"
    "import tensorflow as tf\n"
    "def data(split, shuffle_files=False, seed=None):\n"
    "  return tf.data.Dataset.from_tensor_slices({'alt': ['x'], 'text': ['y']})"
    "\n"
    "seqio.TaskRegistry.add('theirs', output_features={},\n"
    "  source=seqio.FunctionDataSource(data, splits=['train']))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  options = {"module": "their_tasks"}
  try:
    assert list(caption_sources.open_captions("seqio:theirs", **options)) == [
      "y"
    ]
    assert list(
      caption_sources.open_captions("seqio:theirs", field="alt", **options)
    ) == ["x"]
    with pytest.raises(errors.BadInput, match=r"'id'; it has: alt, text\."):
      list(caption_sources.open_captions("seqio:theirs", field="id", **options))
  finally:
    sys.modules.pop("their_tasks", None)


def test_what_is_not_there():
  register()
  for spec, message in {
    "seqio:our": "no task or mixture 'our'; near: ours",
    "seqio:ours:test": "seqio:ours has no split 'test'; it has: train, val",
    "seqio:": "no task or mixture ''",
  }.items():
    with pytest.raises(errors.BadInput, match=message):
      list(caption_sources.open_captions(spec))
  with pytest.raises(errors.BadInput, match="cannot import no_such_module"):
    list(caption_sources.open_captions("seqio:ours", module="no_such_module"))
