"""What a store would hold, against counting by hand."""

import pathlib

from imagen_jax.text import encoders, estimate, store_format

T5 = pathlib.Path(__file__).parents[1] / "golden" / "t5"


def test_the_counts_are_those_of_different_captions():
  seen = encoders.preview(
    T5 / "text_encoder", 10, tokenizer=T5 / "tokenizer" / "spiece.model"
  )
  texts = ["a red cat", "", "a red cat", "苹果", "red " * 30] * 2000
  found = estimate.estimate(texts, seen, clean="none", dtype="int8")
  pieces = seen.tokenizer.split(["a red cat", "", "苹果"])
  tokens = sum(len(p.ids) for p in pieces) + 10
  assert found[:5] == (10_000, 4, tokens, 1, 1)
  assert found.bytes == store_format.estimate_bytes(
    examples=10_000, captions=4, tokens=tokens, dtype="int8", width=48
  )
  ((caption, words),) = found.lost
  assert caption == "red " * 30 and caption.endswith(f"{words} ")
  # Cleaned, "RED" would be another caption but the same tokens.
  upper = estimate.estimate(["RED"], seen, clean="lower", dtype="int8")
  assert upper.unknown == 0
