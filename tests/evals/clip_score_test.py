"""CLIP score and R-precision, on embeddings whose answer is known."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import clip_score


def rows(n, seed=0, width=64):
  return np.random.default_rng(seed).normal(size=(n, width))


CAPTIONS = [f"caption {i}" for i in range(40)]


def test_cosines_do_not_hang_on_lengths():
  a = rows(5)
  own = clip_score.cosines(3 * a, 0.1 * a)
  np.testing.assert_allclose(own, 1, rtol=1e-12)
  np.testing.assert_allclose(clip_score.cosines(a, -a), -1, rtol=1e-12)
  found = clip_score.rows(a, -a, CAPTIONS[:5], candidates=2)
  assert not found["clip_score"].any()
  np.testing.assert_allclose(found["cosine"], -1, rtol=1e-12)


def test_r_precision_of_a_match_and_of_a_guess():
  texts = rows(40)
  near = texts + 0.3 * rows(40, 1)
  assert clip_score.found_first(near, texts, CAPTIONS, candidates=40).all()
  hits = [
    clip_score.found_first(
      rows(40, i), rows(40, 99 + i), CAPTIONS, candidates=4, seed=i
    ).mean()
    for i in range(30)
  ]
  assert np.mean(hits) == pytest.approx(0.25, abs=0.05)
  assert not clip_score.found_first(-texts, texts, CAPTIONS, candidates=9).any()


def test_an_equal_caption_is_no_other():
  texts = rows(20)
  texts[10:] = texts[:10]
  captions = [f"caption {i % 10}" for i in range(20)]
  found = clip_score.found_first(texts, texts, captions, candidates=10)
  assert found.all()
  with pytest.raises(errors.BadInput, match="11 candidates among 10 differ"):
    clip_score.found_first(texts, texts, captions, candidates=11)


def test_what_does_not_fit_is_refused():
  with pytest.raises(errors.BadInput, match="3 images and 4 captions"):
    clip_score.cosines(rows(3), rows(4))
  bad = rows(3)
  bad[1, 0] = np.nan
  with pytest.raises(errors.NonFinite, match="image 1"):
    clip_score.cosines(bad, rows(3))
