"""Embedded captions, whether an encoder made them or a store kept them.

  captions, b of them -> text_emb [b l d], zero on padding; text_mask [b l]

JAX is not imported here, so that a store is read without it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
  from jaxtyping import Array


class Embedded(NamedTuple):
  """Token states, zero on padding, and where they are real."""

  text_emb: "Float[Array, 'b l d'] | Float[np.ndarray, 'b l d']"
  text_mask: "Bool[Array, 'b l'] | Bool[np.ndarray, 'b l']"


Embed: TypeAlias = Callable[[Sequence[str]], Embedded]


def pad_rows(
  rows: Sequence[Float[np.ndarray, "_ d"]], max_length: int, width: int
) -> Embedded:
  """Rows [m d] of real tokens -> `max_length` tokens each, in float32."""
  text_emb = np.zeros((len(rows), max_length, width), np.float32)
  text_mask = np.zeros((len(rows), max_length), np.bool_)
  for i, row in enumerate(rows):
    text_emb[i, : len(row)] = row
    text_mask[i, : len(row)] = True
  return Embedded(text_emb, text_mask)
