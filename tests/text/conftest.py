"""A tiny encoder on disk: the golden BERT with a vocabulary of its own."""

import pathlib
import shutil
import string

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bert"
WORDS = ["a", "red", "blue", "apple", "car", "on", "crab", "##s", "!"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
  """config.json, model.safetensors, tokenizer.json; 120 words at most."""
  folder = tmp_path_factory.mktemp("encoder")
  shutil.copy(GOLDEN / "config.json", folder)
  shutil.copy(GOLDEN / "model.safetensors", folder)
  pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
  pieces += [c for c in string.ascii_lowercase if c not in pieces]
  pieces += ["##" + c for c in string.ascii_lowercase if "##" + c not in pieces]
  vocabulary = {piece: i for i, piece in enumerate(pieces)}
  assert len(vocabulary) <= 120
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  # Left on in the file, as published ones do: loading must turn them off.
  tokenizer.enable_truncation(6)
  tokenizer.enable_padding(length=6)
  tokenizer.save(str(folder / "tokenizer.json"))
  return folder
