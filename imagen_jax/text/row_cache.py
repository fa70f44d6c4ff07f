"""A bounded memory of arrays by caption: the least recently used go first.

rows = cache.get(captions)     {caption: [m d]} of those that are known
cache.put({caption: [m d]})    keeps them, the oldest go beyond `max_bytes`
"""

import collections
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Shaped


class RowCache:
  """Captions -> arrays of at most `max_bytes` together. Not thread-safe."""

  def __init__(self, max_bytes: int):
    self.max_bytes = max_bytes
    self.size_bytes = 0
    self._rows: collections.OrderedDict[str, np.ndarray] = (
      collections.OrderedDict()
    )

  def __len__(self) -> int:
    return len(self._rows)

  def get(
    self, captions: Iterable[str]
  ) -> dict[str, Shaped[np.ndarray, "_ d"]]:
    """The known ones, in their order; each counts as just used."""
    found = {c: self._rows[c] for c in captions if c in self._rows}
    for caption in found:
      self._rows.move_to_end(caption)
    return found

  def put(self, rows: Mapping[str, Shaped[np.ndarray, "_ d"]]) -> None:
    """Adds or replaces rows, then drops the oldest that do not fit."""
    for caption, row in rows.items():
      if caption in self._rows:
        self.size_bytes -= self._rows.pop(caption).nbytes
      self._rows[caption] = row
      self.size_bytes += row.nbytes
    while self.size_bytes > self.max_bytes:
      _, oldest = self._rows.popitem(last=False)
      self.size_bytes -= oldest.nbytes
