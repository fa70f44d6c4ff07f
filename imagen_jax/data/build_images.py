"""Makes a set of captioned images: shards of `examples`, and their manifest.

  source -> judged by `workers` threads -> those to keep, in order -> shards

Nothing in a set depends on when, where or with how many threads it was made.
What cannot be used is named in skipped.jsonl with the reason: bad records,
which count against the budget `max_bad`, and those that a filter leaves out.

The set appears at the end and at once: see `set_folder`.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

from imagen_jax.core import errors, files
from imagen_jax.data import (
  array_record_source,
  examples,
  image_filter,
  image_sources,
  set_folder,
  statistics,
)

# A source of unknown length is given up early only after so many records.
_MIN_SEEN = 10_000


class Progress(NamedTuple):
  """How far a build is."""

  seen: int
  total: int | None


@dataclasses.dataclass
class Report:
  """What became of the records of a source."""

  seen: int = 0
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)
  tally: statistics.Tally = dataclasses.field(default_factory=statistics.Tally)

  @property
  def bad(self) -> int:
    """Skipped records that no filter was asked to leave out."""
    return sum(
      n for why, n in self.skipped.items() if why not in image_filter.FILTERS
    )

  def as_json(self) -> dict[str, files.Json]:
    """As it stands in the manifest."""
    skipped = dict(sorted(self.skipped.items()))
    return {"seen": self.seen, "skipped": skipped} | self.tally.as_json()


Watch = Callable[[Progress], None]


def dry_run(
  source: image_sources.Images,
  settings: image_filter.Settings,
  *,
  workers: int = 2,
  watch: Watch = lambda progress: None,
) -> Report:
  """What `build` would do; writes nothing and takes any number of faults."""
  report = Report()
  judged = _judged(source, settings, workers)

  def step(skipped: dict[str, str] | None) -> None:
    watch(Progress(report.seen, source.count))

  deque(_kept(judged, settings, report, step), maxlen=0)
  return report


def build(
  source: image_sources.Images,
  out: files.PathLike,
  settings: image_filter.Settings,
  *,
  name: str | None = None,
  shard_size: int = 1024,
  max_bad: float = 0.001,
  workers: int = 2,
  watch: Watch = lambda progress: None,
) -> Report:
  """Writes the set, or raises DataError if too many records are bad."""
  report = Report()
  with set_folder.begin(out) as folder:

    def step(skipped: dict[str, str] | None) -> None:
      if skipped:
        files.append_jsonl(folder / set_folder.SKIPPED, skipped)
        records = max(report.seen, source.count or _MIN_SEEN)
        _check_budget(report, max_bad, records, out)
      watch(Progress(report.seen, source.count))

    with contextlib.closing(_judged(source, settings, workers)) as judged:
      kept = _kept(judged, settings, report, step)
      shards = list(_written(kept, folder, shard_size))
    _check_budget(report, max_bad, report.seen, out)
    _check_any(report, source.name)
    notes = {
      "format": examples.FORMAT,
      "filters": dataclasses.asdict(settings),
      "contents": report.as_json(),
    }
    lines = _named(folder, shards)
    array_record_source.write_manifest(
      folder, lines, name=name or source.name, notes=notes
    )
  return report


def _judged(
  source: image_sources.Images, settings: image_filter.Settings, workers: int
) -> Iterator[image_filter.Judged]:
  """The items of a source, judged by threads; in the order of the source."""
  judge = functools.partial(image_filter.judge, settings=settings)
  waiting: deque[futures.Future] = deque()
  with futures.ThreadPoolExecutor(workers) as pool:
    for item in source.read():
      waiting.append(pool.submit(judge, item))
      if len(waiting) > 2 * workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


def _kept(
  judged: Iterable[image_filter.Judged],
  settings: image_filter.Settings,
  report: Report,
  step: Callable[[dict[str, str] | None], None],
) -> Iterator[examples.Example]:
  """The examples to keep; `step` is told of each record: None, or why not."""
  first: dict[bytes, str] = {}  # key by identity
  for one in judged:
    report.seen += 1
    if one.example is not None and settings.dedup:
      if one.identity in first:
        one = image_filter.duplicate(one, of=first[one.identity])
      else:
        first[one.identity] = one.key
    if one.example is None:
      report.skipped[one.reason] += 1
      step({"key": one.key, "reason": one.reason, "detail": one.detail})
    else:
      report.tally.add(one.example)
      step(None)
      yield one.example


def _written(
  kept: Iterator[examples.Example], folder: pathlib.Path, shard_size: int
) -> Iterator[array_record_source.Shard]:
  """Writes shards until nothing is left; only one example is in memory."""
  for number in itertools.count():
    head = list(itertools.islice(kept, 1))
    if not head:
      return
    rows = itertools.chain(head, itertools.islice(kept, shard_size - 1))
    path = folder / f"{number:05d}"
    yield array_record_source.write_shard(path, rows, encode=examples.encode)


def _named(
  folder: pathlib.Path, shards: list[array_record_source.Shard]
) -> list[array_record_source.Shard]:
  """Gives the shards their names, now that their number is known."""
  lines = []
  for shard in shards:
    name = f"images-{shard.file}-of-{len(shards):05d}.array_record"
    os.replace(folder / shard.file, folder / name)
    lines.append(dataclasses.replace(shard, file=name))
  return lines


def _check_budget(
  report: Report, max_bad: float, records: int, out: files.PathLike
) -> None:
  if report.bad > max_bad * records:
    raise errors.DataError(
      f"{report.bad} of {report.seen} records so far are bad, more than"
      f" max_bad={max_bad:g} allows: {_reasons(report)}. They are named in"
      f" {os.path.join(out, set_folder.SKIPPED)!r}; mend them, or allow more by"
      " --max_bad."
    )


def _check_any(report: Report, name: str) -> None:
  if not report.tally.images:
    raise errors.DataError(
      f"{name}: none of {report.seen} records is kept ({_reasons(report)});"
      " nothing is written."
    )


def _reasons(report: Report) -> str:
  counts = report.skipped.most_common()
  return ", ".join(f"{n} {reason}" for reason, n in counts) or "it is empty"
