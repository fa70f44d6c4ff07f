"""A config's programs, compiled for chips that are not there.

`facts` compiles one and says what the compiler says; `plan/estimate.py` makes
bytes, seconds and costs of that. A compile takes minutes, so what is said is
kept in a folder, by config, slice and versions.
"""

import importlib.metadata
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import ml_collections
from etils import epath

from imagen_jax import build, build_plan_encoder, build_plan_jobs, version
from imagen_jax.core import errors, files
from imagen_jax.plan import chips, estimate, hlo, products, traffic
from imagen_jax.train import record

# A step of training or of sampling, or a batch of captions.
Name = Literal["train", "sample", "encode"]
_COUNT = "FLOPs of all turns"  # what a kept plan says, if that changes
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def facts(
  config: ml_collections.ConfigDict,
  topology: str,
  *,
  program: Name = "train",
  sample_batch: int | None = None,
  cache: files.PathLike | None = None,
  fresh: bool = False,
) -> estimate.Facts:
  """Of one program; from `cache` if it is there and not to be `fresh`.

  `sample_batch` is of images, or of captions, where they are not trained on. Of
  GPUs it is what shapes say; nothing is compiled.
  """
  where = chips.topology(topology)
  if where.is_tpu:
    check_compiler()
  file = None
  if cache is not None and where.is_tpu:
    file = epath.Path(cache) / _name(config, where, program, sample_batch)
    if not fresh and (kept := _read(file)) is not None:
      return kept
  if program == "encode":
    job = build_plan_encoder.make(config, topology, captions=sample_batch)
  else:
    job = build_plan_jobs.make(
      config, topology, program=program, sample_batch=sample_batch
    )
  if not where.is_tpu:
    return job.facts
  found = _compiled(job)
  if file is not None:
    files.check_writable(file.parent)
    files.write_json(file, estimate.as_json(found))
  return found


def check_compiler() -> None:
  """Raises BadInput where no program for a TPU can be compiled."""
  if importlib.util.find_spec("libtpu") is None:
    raise errors.BadInput(
      "compiling for a TPU needs its compiler, libtpu, which needs no TPU;"
      ' install it: pip install "imagen_jax[plan]"'
    )


def needed_bytes(message: str, held: int) -> int | None:
  """What XLA names where it runs out of HBM; None where it fails otherwise."""
  for pattern, more in (
    (r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", 0),
    (r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM", held),
  ):
    if match := re.search(pattern, message):
      return int(float(match[1]) * _UNITS[match[2]]) + more
  return None


def default_cache() -> str:
  """Beside JAX's own."""
  caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(caches, "imagen_jax", "plans")


def _compiled(job: build_plan_jobs.Job) -> estimate.Facts:
  start = time.monotonic()
  try:
    program = job.lower(*job.arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    needed = needed_bytes(str(error), sum(job.facts.held.values()))
    if needed is None:
      raise
    return job.facts._replace(too_large=needed)
  seconds = time.monotonic() - start
  return job.facts._replace(compiled=_said(program, job, seconds))


def _said(
  program: Any, job: build_plan_jobs.Job, seconds: float
) -> estimate.Compiled:
  text = program.as_text()
  found = hlo.collectives(text)
  memory, cost = program.memory_analysis(), program.cost_analysis()
  paths = jax.tree_util.tree_flatten_with_path(job.arguments)[0]
  names = [jax.tree_util.keystr(path) for path, _ in paths]
  largest = hlo.largest_replicated(text, names)
  moved = hlo.activation_gathers(found, job.gathered)
  return estimate.Compiled(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    flops=float(cost["flops"]) + products.of_more_turns(text),
    traffic_bytes=float(traffic.hbm_bytes(text)),
    exchanges=tuple(_exchanges(found, job.facts.mesh)),
    largest_replicated=largest and (largest.name, largest.bytes),
    activation_gathers=tuple(
      f"over {_axes(one, job.facts.mesh)}:"
      f" {', '.join(map(str, one.shapes))} {one.name}"
      for one in moved
    ),
    largest_arrays=tuple(traffic.largest(text)),
    seconds=seconds,
  )


def _exchanges(
  found: list[hlo.Collective], mesh: dict[str, int]
) -> Iterator[estimate.Exchange]:
  groups: dict[tuple[str, str], list[hlo.Collective]] = {}
  for one in found:
    groups.setdefault((one.kind, _axes(one, mesh)), []).append(one)
  for (kind, axes), members in sorted(groups.items()):
    yield estimate.Exchange(
      kind,
      axes,
      sum(one.times for one in members),
      sum(one.times * one.bytes for one in members),
      sum(one.sent for one in members),
    )


def _axes(one: hlo.Collective, mesh: dict[str, int]) -> str:
  return "+".join(hlo.axes(one.group, mesh))


def _name(
  config: ml_collections.ConfigDict,
  where: chips.Topology,
  program: str,
  sample_batch: int | None,
) -> str:
  """Of the file that keeps what a compiler said."""
  key = {
    "config": build.plain(config),
    "versions": _versions(),
    "sample_batch": sample_batch,
  }
  place = where.name.replace(":", "_")
  return f"{place}_{program}_{record.config_hash(key)}.json"


def _versions() -> list[str]:
  compiler = importlib.metadata.version("libtpu")
  return [version.VERSION, jax.__version__, compiler, _COUNT]


def _read(file: epath.Path) -> estimate.Facts | None:
  """None if it is not there, or was written by another version."""
  try:
    return estimate.from_json(files.parse_json(file.read_text()))
  except (OSError, ValueError, KeyError, TypeError):
    return None
