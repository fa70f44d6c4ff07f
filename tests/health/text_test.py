"""Captions and embeddings that tell images apart, and those that do not."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.health import text

TEXTS = ["a fox", "a crab", "a koala", "a fox"]


def embedded():
  states = {t: np.full((5, 8), i, np.float32) for i, t in enumerate(TEXTS[:3])}
  text_emb = np.stack([states[t] for t in TEXTS])
  text_mask = np.arange(5)[None] < np.array([3, 5, 3, 3])[:, None]
  return text_emb, text_mask


@pytest.mark.parametrize(
  ("texts", "level", "said"),
  [
    (TEXTS, "ok", "0 of 4 are empty, 3 are different"),
    (["a fox", "", "a crab"], "warning", "1 of 3 are empty"),
    (["a fox", "", " "], "problem", "2 of 3 are empty"),
    (["a photo"] * 3, "problem", "all 3 are 'a photo'"),
    (["one"], "ok", "1 are different"),
  ],
)
def test_captions(texts, level, said):
  found = text.captions(texts)
  assert found.level == level and said in found.said
  assert bool(found.remedy) == (level != "ok")


def test_embeddings_that_fit_are_well():
  found = text.embeddings(TEXTS, *embedded(), width=8)
  assert found.level == "ok" and "[5 8]; 1 fill all 5" in found.said


def test_another_width_is_for_the_config():
  found = text.embeddings(TEXTS, *embedded(), width=16)
  assert found.error is errors.BadInput and "text_width=8" in found.remedy


def test_embeddings_that_say_nothing_are_for_the_data():
  text_emb, text_mask = embedded()
  same = text.embeddings(TEXTS, np.ones_like(text_emb), text_mask, width=8)
  assert same.said == "3 different captions have one embedding"
  nothing = text.embeddings(
    TEXTS, text_emb, text_mask & (np.arange(4) != 1)[:, None], width=8
  )
  assert "1 captions have no token, the first is 'a crab'" in nothing.said
  text_emb[2, 0, 0] = np.inf
  torn = text.embeddings(TEXTS, text_emb, text_mask, width=8)
  assert torn.said == "embeddings are not finite"
  assert {f.error for f in (same, nothing, torn)} == {errors.DataError}


def test_equal_captions_may_have_one_embedding():
  text_emb, text_mask = embedded()
  rows = [0, 3]
  found = text.embeddings(
    [TEXTS[i] for i in rows], text_emb[rows], text_mask[rows], width=8
  )
  assert found.level == "ok"
