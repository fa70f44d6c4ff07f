"""The batch schema: what a training step may expect, and nothing else.

  image      float32 [b h w 3] in [-1, 1], what the stage learns to make
  x_lr       float32 [b h' w' 3] in [-1, 1], super-resolution only, before noise
  text_emb   float32 [b l d], from the text encoder
  text_mask  bool    [b l], true where a token is real

A pipeline yields `image`, `x_lr` and, for the encoder and for people, `caption`
(a list of str). The emoji set adds `object` and `colour` (int32 [b], indices
into the set), sets of images `key` (a list of str).
"""

import jax
import numpy as np
from jaxtyping import Array

from imagen_jax.core import errors

Spec = dict[str, jax.ShapeDtypeStruct]
HostBatch = dict[str, np.ndarray | list[str]]
ARRAYS = ("image", "x_lr", "text_emb", "text_mask")


def spec(
  batch_size: int,
  *,
  resolution: int,
  low_resolution: int | None,
  max_length: int,
  text_width: int,
) -> Spec:
  """Shapes and dtypes of a batch; `resolution` is that of the crop, if any."""
  b = batch_size

  def square(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((b, size, size, 3), np.float32)

  fields = {
    "image": square(resolution),
    "text_emb": jax.ShapeDtypeStruct((b, max_length, text_width), np.float32),
    "text_mask": jax.ShapeDtypeStruct((b, max_length), np.bool_),
  }
  if low_resolution is not None:
    fields["x_lr"] = square(low_resolution)
  return fields


def fake_batch(fields: Spec, *, seed: int = 0) -> dict[str, np.ndarray]:
  """Noise of the right shapes, for tests and for compiling without data."""
  generator = np.random.default_rng(seed)

  def fake(name: str, field: jax.ShapeDtypeStruct) -> np.ndarray:
    if name == "text_mask":
      length = generator.integers(1, field.shape[1] + 1, field.shape[:1])
      return np.arange(field.shape[1])[None] < length[:, None]
    if name == "text_emb":
      return generator.standard_normal(field.shape, np.float32)
    return generator.uniform(-1, 1, field.shape).astype(np.float32)

  return {name: fake(name, fields[name]) for name in sorted(fields)}


def check(batch: dict[str, np.ndarray | Array], fields: Spec) -> None:
  """Raises BadInput for a wrong field, NonFinite for NaN, naming the row.

  Fields that the schema does not have (captions, indices) are passed over.
  """
  for name, field in fields.items():
    if name not in batch:
      raise errors.BadInput(
        f"the batch has no {name!r}; it has {', '.join(sorted(batch))}."
      )
    array = np.asarray(batch[name])
    if array.shape != field.shape or array.dtype != field.dtype:
      raise errors.BadInput(
        f"{name!r} is {array.dtype} {array.shape}, expected {field.dtype}"
        f" {field.shape}."
      )
    if name == "text_mask":
      continue
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
      rows = np.flatnonzero(bad).tolist()
      raise errors.NonFinite(
        f"{name!r} has values that are not finite in {len(rows)} of"
        f" {len(array)} examples, first in row {rows[0]}."
      )
    if name in ("image", "x_lr") and np.abs(array).max(initial=0) > 1:
      raise errors.BadInput(
        f"{name!r} has values from {array.min():g} to {array.max():g}, expected"
        " [-1, 1]; convert bytes with core.images.from_uint8."
      )
