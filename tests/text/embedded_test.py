"""Rows padded to a length."""

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.text import embedded


def test_rows_come_first_and_the_rest_is_zero_and_masked():
  rows = [np.full((m, 4), m, ml_dtypes.bfloat16) for m in (2, 0, 3)]
  text_emb, text_mask = embedded.pad_rows(rows, 3, 4)
  assert text_emb.dtype == np.float32
  assert text_mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
  expected = np.array([[2, 2, 0], [0, 0, 0], [3, 3, 3]], np.float32)
  np.testing.assert_array_equal(text_emb, np.repeat(expected[..., None], 4, 2))


def test_no_rows_keep_the_shape():
  text_emb, text_mask = embedded.pad_rows([], 3, 4)
  assert (text_emb.shape, text_mask.shape) == ((0, 3, 4), (0, 3))


def test_a_row_that_is_too_long_is_not_cut_in_silence():
  with pytest.raises(ValueError):
    embedded.pad_rows([np.zeros((4, 4), np.float32)], 3, 4)
