"""The bounded memory: what it keeps, what it drops."""

import numpy as np

from imagen_jax.text import row_cache


def row(value, tokens=1):
  return np.full((tokens, 4), value, np.float32)  # 16 bytes a token


def test_keeps_what_was_put():
  cache = row_cache.RowCache(100)
  cache.put({"a": row(1), "b": row(2)})
  found = cache.get(["b", "c", "a"])
  assert list(found) == ["b", "a"]
  np.testing.assert_array_equal(found["b"], row(2))
  assert cache.size_bytes == 32


def test_the_least_recently_used_goes_first():
  cache = row_cache.RowCache(32)
  cache.put({"a": row(1), "b": row(2)})
  cache.get(["a"])
  cache.put({"c": row(3)})
  assert list(cache.get(["a", "b", "c"])) == ["a", "c"]
  assert cache.size_bytes == 32


def test_putting_again_replaces():
  cache = row_cache.RowCache(64)
  cache.put({"a": row(1)})
  cache.put({"a": row(2, tokens=3)})
  assert cache.size_bytes == 48
  assert len(cache) == 1
  np.testing.assert_array_equal(cache.get(["a"])["a"], row(2, tokens=3))


def test_what_cannot_fit_is_not_kept():
  cache = row_cache.RowCache(8)
  cache.put({"a": row(1)})
  assert len(cache) == 0
  assert cache.size_bytes == 0
