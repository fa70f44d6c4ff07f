"""Embeds captions that live in Beam or Dataflow.

  [caption, ...] -> {"caption": str, "tokens": m, "embedding": bytes of [m d]}

The encoder is loaded once in each worker process, by a function that is sent
there. A recipe:

  def load():
    encoder, params = encoders.load("gs://bucket/t5-xxl", max_length=128)
    return lambda c: embedding.embed_rows(encoder, params, c).rows

  schema = pyarrow.schema([
    ("caption", pyarrow.string()),
    ("tokens", pyarrow.int32()),
    ("embedding", pyarrow.binary()),
  ])
  with apache_beam.Pipeline(options=options) as pipeline:
    (
      pipeline
      | apache_beam.io.ReadFromText("gs://bucket/captions-*.txt")
      | apache_beam.Distinct()
      | apache_beam.BatchElements(min_batch_size=64, max_batch_size=512)
      | apache_beam.ParDo(beam.make_embed_fn(load))
      | apache_beam.io.WriteToParquet("gs://bucket/embeddings", schema)
    )

`states` reads an embedding back. Where captions need not stay in Beam, `imagen
embed` writes a store that training reads as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from jaxtyping import DTypeLike, Shaped

from imagen_jax.core import errors

# Captions -> for each the states [m d] of its own tokens.
EmbedRows: TypeAlias = Callable[[Sequence[str]], Sequence[np.ndarray]]


class EmbedRowsFn:
  """What the DoFn does; sent to the workers by name, so they have imagen_jax.

  Beam makes one for each thread of a worker; through `shared` they use the same
  encoder.
  """

  def __init__(
    self, load: Callable[[], EmbedRows], dtype: DTypeLike, shared: Any
  ):
    self._load = load
    self._dtype = dtype
    self._shared = shared

  def setup(self) -> None:
    self._embed = self._shared.acquire(self._load)

  def process(self, captions: Sequence[str]) -> Iterator[dict]:
    for caption, states in zip(captions, self._embed(captions), strict=True):
      yield {
        "caption": caption,
        "tokens": len(states),
        "embedding": states.astype(self._dtype).tobytes(),
      }


def make_embed_fn(
  load: Callable[[], EmbedRows],
  *,
  dtype: DTypeLike = ml_dtypes.bfloat16,
) -> Any:
  """A beam.DoFn from lists of captions to one dict for each caption."""
  try:
    import apache_beam
    from apache_beam.utils import shared
  except ImportError as error:
    raise errors.BadInput(
      f"apache_beam cannot be imported ({error}); run: pip install apache-beam"
    ) from error
  # Made here, so that this file can be imported without Beam.
  embed_fn = type("EmbedFn", (EmbedRowsFn, apache_beam.DoFn), {})
  return embed_fn(load, dtype, shared.Shared())


def states(
  element: dict, *, dtype: DTypeLike = ml_dtypes.bfloat16
) -> Shaped[np.ndarray, "m d"]:
  """The states [m d] of an element that the DoFn made."""
  flat = np.frombuffer(element["embedding"], dtype)
  return flat.reshape(element["tokens"], -1)
