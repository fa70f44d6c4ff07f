"""Do captions tell images apart, and do their embeddings?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.core import errors
from imagen_jax.health import findings

_MANY_EMPTY = 0.5


def captions(texts: Sequence[str]) -> findings.Finding:
  """Whether images have captions that tell them apart."""
  empty, distinct = sum(not t.strip() for t in texts), len(set(texts))
  share = empty / len(texts)
  said = f"{empty} of {len(texts)} are empty, {distinct} are different"
  if share > _MANY_EMPTY:
    return findings.problem(
      "captions",
      said,
      "name the field of the captions: imagen data build --help",
      errors.DataError,
    )
  if distinct == 1 < len(texts):
    return findings.problem(
      "captions",
      f"all {len(texts)} are {texts[0]!r}",
      "give each image its own; see imagen data stats",
      errors.DataError,
    )
  if empty:
    return findings.warning(
      "captions",
      said,
      "empty ones train without text, on top of stage.text_drop_rate; leave"
      " them out, or lower it",
    )
  return findings.ok("captions", said)


def embeddings(
  texts: Sequence[str],
  text_emb: Float[np.ndarray, "b l d"],
  text_mask: Bool[np.ndarray, "b l"],
  *,
  width: int,
) -> findings.Finding:
  """Whether the states of captions fit the stage, and tell them apart."""
  b, length, d = text_emb.shape
  if d != width:
    return findings.problem(
      "text",
      f"embeddings are {d} wide, and stage.text_width is {width}",
      f"set stage.text_width={d}, or text.encoder to the one that was meant",
      errors.BadInput,
    )
  empty = [
    t for t, m in zip(texts, text_mask, strict=True) if t and not m.any()
  ]
  states = list(dict(zip(texts, text_emb, strict=True)).values())
  same = len(states) > 1 and all((s == states[0]).all() for s in states[1:])
  if not np.isfinite(text_emb).all():
    said = "embeddings are not finite"
  elif empty:
    said = f"{len(empty)} captions have no token, the first is {empty[0]!r}"
  elif same:
    said = f"{len(states)} different captions have one embedding"
  else:
    cut = text_mask.all(axis=1).sum()
    return findings.ok(
      "text",
      f"{b} captions of the first batch have embeddings [{length} {d}];"
      f" {cut} fill all {length} tokens",
    )
  return findings.problem(
    "text",
    said,
    "make the store anew with imagen embed, or look at text.encoder",
    errors.DataError,
  )
