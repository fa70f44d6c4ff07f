"""Attention of text encoders: exact, in full precision, over short sequences.

out[b, q, n] = sum_s p[b, n, q, s] value[b, s, n]
p = softmax_s(scale query[b, q, n] . key[b, s, n] + bias[n, q, s])

A source that is not allowed has weight 0 (where none is, all weigh alike, and
the result means nothing but is finite). Softmax is float32 or better; matrix
products ask for full precision: a GPU would otherwise run float32 in TF32, and
the text embedding would depend on the machine.

`nn/attention.py` is for images: long, trained, and with memory to spare.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

PRECISION = jax.lax.Precision.HIGHEST


def attend(
  query: Float[Array, "b q n k"],
  key: Float[Array, "b s n k"],
  value: Float[Array, "b s n k"],
  allowed: Bool[Array, "b #q s"] | None,
  *,
  scale: float = 1.0,
  bias: Float[Array, "n q s"] | None = None,
) -> Float[Array, "b q n k"]:
  """Attention of each query over its allowed sources; None allows all."""
  logits = jnp.einsum("bqnk,bsnk->bnqs", query, key, precision=PRECISION)
  wide = jnp.promote_types(query.dtype, jnp.float32)
  logits = logits.astype(wide)
  if scale != 1.0:
    logits = logits * scale
  if bias is not None:
    logits = logits + bias[None].astype(wide)
  if allowed is not None:
    # The lowest finite number, not -inf: a row without sources stays finite.
    logits = jnp.where(allowed[:, None], logits, jnp.finfo(wide).min)
  probs = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
  return jnp.einsum("bnqs,bsnk->bqnk", probs, value, precision=PRECISION)
