"""The resumable job: captions -> an embedding store.

  pass 1   hashes the stream of captions and finds the unique ones
  pass 2   embeds them, a shard at a time; host h has the shards i with
           i % hosts == h
  the end  whichever host finishes last writes index and manifest

A run that was killed goes on behind its last finished shard. Batches never
reach over a shard, so the store is the same, byte for byte, however often the
run was killed and however many hosts share it (as far as they compute alike).
No caption is kept in memory but those of one block; a digest is 16 bytes.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from absl import logging
from jaxtyping import Float32, Int64

from imagen_jax.core import errors, files
from imagen_jax.text import store, store_format, store_index, store_parts

# Captions in one call of `embed_rows`, which may sort them by length. Where
# rounding depends on the batch, another value changes last bits of a store.
BLOCK_SIZE = 1024


class Host(NamedTuple):
  """Which of the hosts that share the work this is, from 0."""

  index: int
  count: int


ONE_HOST = Host(0, 1)


class Rows(NamedTuple):
  """The real tokens of some captions, and which captions were cut."""

  rows: list[Float32[np.ndarray, "_ d"]]
  truncated: list[bool]


class Progress(NamedTuple):
  """How far this host is. The first report is what it found done."""

  captions: int  # unique ones
  total: int
  tokens: int
  bytes: int  # of their rows, without index and padding


class Result(NamedTuple):
  """The store is finished if no shard is missing."""

  shards: int
  missing: int  # those that other hosts have not written yet


Captions: TypeAlias = Callable[[], Iterator[str]]
EmbedRows: TypeAlias = Callable[[Sequence[str]], Rows]
Report: TypeAlias = Callable[[Progress], None]


def run(
  captions: Captions,
  embed_rows: EmbedRows,
  identity: store_format.Identity,
  out: files.PathLike,
  *,
  dtype: store_format.Dtype = "bfloat16",
  shard_size: int = 4096,
  settings: Mapping[str, files.Json] | None = None,
  host: Host = ONE_HOST,
  progress: Report | None = None,
) -> Result:
  """Embeds this host's part of the captions, or what is left of it.

  `captions` starts the stream anew, always the same. `settings` is what else
  the bytes depend on (batch size, dtype of the network); it is kept in the
  manifest. A folder begun with other captions or settings is BadInput.
  """
  if not 0 <= host.index < host.count or shard_size < 1 or None in identity:
    raise errors.BadInput(
      f"host {host.index} of {host.count}, {shard_size} captions a shard and"
      f" {identity}: hosts count from 0, shards are not empty, and every field"
      " of the identity is given."
    )
  folder = store_parts.open_folder(out)
  name = f"host-{host.index}-of-{host.count}"
  try:
    with store_parts.alone(folder, name):
      digests = store_index.digests(captions())
      if not len(digests):
        raise errors.BadInput("there are no captions; give at least one.")
      plan = store_format.make_plan(
        identity,
        dtype=dtype,
        shard_size=shard_size,
        captions_sha256=hashlib.sha256(digests).hexdigest(),
        settings=settings or {},
      )
      index, firsts = store_index.build(digests)
      job = store_parts.Unfinished(folder, name, plan, digests, index, firsts)
      own = range(host.index, job.shards, host.count)
      return _run(job, own, captions, embed_rows, progress)
  finally:
    if store_parts.finished(folder):
      shutil.rmtree(folder / store_format.PARTS, ignore_errors=True)


def _run(
  job: store_parts.Unfinished,
  own: range,
  captions: Captions,
  embed_rows: EmbedRows,
  progress: Report | None,
) -> Result:
  """Pass 2 and the end, or nothing where the store is there."""
  logging.info(
    "%d captions, %d of them unique, in %d shards; %d are this host's.",
    len(job.digests),
    len(job.firsts),
    job.shards,
    len(own),
  )
  if store_parts.finished(job.folder):
    job.refuse_other(store_format.read_manifest(job.folder).plan)
    store.EmbeddingStore(job.folder)  # raises where it is damaged
    logging.info("%s is finished; nothing is left to do.", job.folder)
    return Result(job.shards, 0)
  job.agree()
  _embed_shards(job, own, captions, embed_rows, progress or (lambda _: None))
  missing = job.finish()
  if missing:
    logging.info("%d of %d shards are missing yet.", missing, job.shards)
  return Result(job.shards, missing)


def _embed_shards(
  job: store_parts.Unfinished,
  own: range,
  captions: Captions,
  embed_rows: EmbedRows,
  report: Report,
) -> None:
  """Embeds the shards of this host that are not there yet."""
  lines = {i: job.line(i, checked=True) for i in own}
  done = [line for line in lines.values() if line]
  count = sum(line.records for line in done)
  tokens = sum(line.tokens for line in done)
  total = sum(len(job.positions(i)) for i in own)
  size = store_format.bytes_per_token(job.plan["dtype"], job.plan["width"])
  report(Progress(count, total, tokens, tokens * size))
  stream = enumerate(captions())
  for number in (i for i in own if lines[i] is None):
    writer = job.shard_writer(number)
    positions = job.positions(number)
    for begin in range(0, len(positions), BLOCK_SIZE):
      block = _take(job, stream, positions[begin : begin + BLOCK_SIZE])
      for caption, row, cut in _embed(job, block, embed_rows):
        writer.add(store_index.digest(caption), row, cut)
        tokens += len(row)
      count += len(block)
      report(Progress(count, total, tokens, tokens * size))
    job.add_line(number, writer.commit())


def _take(
  job: store_parts.Unfinished,
  stream: Iterator[tuple[int, str]],
  positions: Int64[np.ndarray, "q"],
) -> list[str]:
  """The captions at these positions, all of them ahead in the stream."""
  block = []
  for position in positions:
    caption = next((text for i, text in stream if i == position), None)
    expected = job.digests[position : position + 1].tobytes()
    if caption is None or store_index.digest(caption) != expected:
      raise errors.DataError(
        f"caption {position} is another one than when the captions were read"
        " first; they must not change during a run."
      )
    block.append(caption)
  return block


def _embed(
  job: store_parts.Unfinished, captions: list[str], embed_rows: EmbedRows
) -> list[tuple[str, Float32[np.ndarray, "_ d"], bool]]:
  """(caption, row, cut) of a block, with the rows checked."""
  found = embed_rows(captions)
  max_length, width = job.plan["max_length"], job.plan["width"]
  for caption, row in zip(captions, found.rows, strict=True):
    shown = store_index.shown(caption)
    if row.shape[1:] != (width,) or len(row) > max_length:
      raise errors.BadInput(
        f"the encoder gives {list(row.shape)} for caption {shown}, expected at"
        f" most {[max_length, width]}."
      )
    if not np.isfinite(row).all():
      raise errors.NonFinite(
        f"the embedding of caption {shown} is not finite; check the encoder's"
        " weights, or embed in float32."
      )
  return list(zip(captions, found.rows, found.truncated, strict=True))
