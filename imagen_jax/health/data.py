"""Is the data what training expects? Pixels, and the files of a set."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from imagen_jax.core import errors
from imagen_jax.data import batch as batch_lib
from imagen_jax.data import decode, examples, image_pipeline, rejects
from imagen_jax.health import findings

_FLAT = 1 / 127.5  # deviation of one level of 255
_MANY_FLAT = 0.25


def pixels(batch: batch_lib.HostBatch) -> findings.Finding:
  """Whether images, and what they are made from, are in [-1, 1]."""
  said = []
  for name in ("image", "x_lr"):
    if name not in batch:
      continue
    x = np.asarray(batch[name])
    if not np.isfinite(x).all():
      return findings.problem(
        "pixels",
        f"{name} has values that are not finite",
        "look at how the pixels are read; no image file holds such",
        errors.DataError,
      )
    low, high = float(x.min()), float(x.max())
    said.append(f"{name} from {low:.3g} to {high:.3g}")
    if bad := _range(name, low, high):
      return bad
  return findings.ok("pixels", "; ".join(said))


def _range(name: str, low: float, high: float) -> findings.Finding | None:
  where = f"{name} has values from {low:.3g} to {high:.3g}"
  if low >= 0 and high > 1:
    return findings.problem(
      "pixels",
      f"{where}: these are images in 0..255, and [-1, 1] is expected",
      "convert them once with core.images.from_uint8",
      errors.DataError,
    )
  if max(-low, high) > 1:
    return findings.problem(
      "pixels",
      f"{where}, and [-1, 1] is expected",
      "scale pixels as core.images.from_uint8 does, by no mean or deviation",
      errors.DataError,
    )
  if low >= 0:
    return findings.warning(
      "pixels",
      f"{where}: nothing is darker than grey, as in images in 0..1",
      "if they are, convert them: 2 x - 1",
    )
  return None


def contrast(batch: batch_lib.HostBatch) -> findings.Finding:
  """Whether images are more than one colour."""
  deviation = np.asarray(batch["image"], np.float64).std(axis=(1, 2)).mean(-1)
  flat = np.flatnonzero(deviation < _FLAT)
  count = len(deviation)
  said = f"{len(flat)} of {count} images are of one colour"
  named = batch.get("key", batch.get("caption", []))
  if len(flat) and len(named):
    said += f", the first is {named[flat[0]]!r}"
  remedy = "look at the files: imagen data stats draws a sheet of them"
  if len(flat) == count:
    return findings.problem("contrast", said, remedy, errors.DataError)
  if len(flat) >= _MANY_FLAT * count:
    return findings.warning("contrast", said, remedy)
  return findings.ok("contrast", said)


def files(
  source: image_pipeline.Source, name: str, *, count: int = 256
) -> list[findings.Finding]:
  """Reads and decodes `count` examples, spread over the set."""
  chosen = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
  bad, seen = [], Counter()
  for index in chosen.tolist():
    try:
      example = source[index]
      decode.decode(example.image)
      seen[examples.digest(example.image)] += 1
    except (errors.DataError, decode.Skip) as error:
      bad.append(f"record {index}: {error}")
  twice = sum(n - 1 for n in seen.values())
  said = f"{len(chosen) - len(bad)} of {len(chosen)} decode, of {len(source)}"
  if bad:
    read = findings.problem(
      f"set {name}",
      f"{said}; {bad[0]}",
      "imagen data verify --decode names all; build or copy the set again",
      errors.DataError,
    )
  else:
    read = findings.ok(f"set {name}", said)
  said = f"{twice} of {len(chosen)} images are there twice"
  if not twice:
    return [read, findings.ok("duplicates", said)]
  return [
    read,
    findings.warning(
      "duplicates",
      said,
      "imagen data stats counts all; they are learned by heart, so leave them"
      " out unless they are meant",
    ),
  ]


def rejected(
  found: Sequence[rejects.Reject], asked: int, budget: rejects.Budget
) -> findings.Finding:
  """Examples that `asked` rows of batches could not use."""
  said = f"{len(found)} examples could not be used for {asked} rows"
  if not found:
    return findings.ok("rejects", said)
  said += f", the first is {found[0].key!r}: {found[0].reason}"
  share = len(found) / (asked + len(found))
  remedy = (
    "imagen data verify --decode; for small pictures data.upscale=True, or a"
    " set of larger ones"
  )
  if share > budget.fraction and len(found) > 1:
    return findings.problem(
      "rejects",
      f"{said} A run stops above {budget.count} and {budget.fraction:.2%}",
      remedy,
      errors.DataError,
    )
  return findings.warning("rejects", said, remedy)
