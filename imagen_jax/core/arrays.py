"""The vocabulary of array types, over jaxtyping.

Letters: `b` batch, `h w c` height width channels, `l` text length, `d` text
width. Images are in [-1, 1], channels last.
"""

from typing import TypeAlias

import jaxtyping
from jaxtyping import Array, Bool, Float, PyTree

Image: TypeAlias = Float[Array, "b h w c"]
Logsnr: TypeAlias = Float[Array, "b"]
TextEmb: TypeAlias = Float[Array, "b l d"]
TextMask: TypeAlias = Bool[Array, "b l"]

# A typed key (`jax.random.key`), and one key for each example.
Key: TypeAlias = jaxtyping.Key[Array, ""]
Keys: TypeAlias = jaxtyping.Key[Array, "b"]

# Nested dicts of arrays; `Cond` has text_emb, text_mask, x_lr, aug_level.
Params: TypeAlias = PyTree
Cond: TypeAlias = dict[str, Array]
