"""Tries meshes, remat and micro-batches of a training step on a slice."""

from collections.abc import Iterator

import ml_collections

from imagen_jax import build_plan, build_plan_jobs
from imagen_jax.core import errors, files
from imagen_jax.plan import chips, estimate

_REMAT = ("none", "blocks", "full")  # the cheaper first
_PARTS = (1, 2, 4)  # micro-batches


def search(
  config: ml_collections.ConfigDict,
  topology: str,
  *,
  cache: files.PathLike | None = None,
) -> Iterator[estimate.Facts]:
  """What was tried, as it is found out; each may take as long as one plan.

  For each mesh the first that fits is the last: what comes later computes or
  gathers more. What cannot fit by what is known already is not compiled.
  """
  where = chips.topology(topology)
  if not where.is_tpu:
    raise errors.BadInput(
      f"a search compares what a compiler says, and for {topology} nothing is"
      f" compiled; search a TPU slice, as {chips.CHIPS['v5e'].example}."
    )
  for fsdp, tensor in meshes(where.count):
    yield from _of_mesh(config, where, fsdp, tensor, cache)


def meshes(count: int) -> list[tuple[int, int]]:
  """(fsdp, tensor): up to 64 chips hold a parameter, and one with tensor 2.

  Cut finer, parts are too small to be worth their latency.
  """
  sizes = [n for n in (8, 16, 32, 64) if n <= count and count % n == 0]
  sizes = sizes or [count]
  tensor = [(sizes[-1] // 2, 2)] if sizes[-1] % 2 == 0 else []
  return [(n, 1) for n in sizes] + tensor


def _of_mesh(
  config: ml_collections.ConfigDict,
  where: chips.Topology,
  fsdp: int,
  tensor: int,
  cache: files.PathLike | None,
) -> Iterator[estimate.Facts]:
  for remat in _REMAT:
    rest = 0  # bytes that micro-batches divide, once they are known
    for parts in _PARTS:
      one = _variant(config, fsdp, tensor, remat, parts)
      held = _held(one, where)
      if held is None or held + rest / parts > where.chip.hbm:
        continue
      found = build_plan.facts(one, where.name, cache=cache)
      yield found
      bytes_ = estimate.estimate(found)
      if bytes_.fits:
        return
      rest = max(rest, parts * (bytes_.total_bytes - held))


def _variant(
  config: ml_collections.ConfigDict,
  fsdp: int,
  tensor: int,
  remat: str,
  parts: int,
) -> ml_collections.ConfigDict:
  one = config.copy_and_resolve_references()
  with one.unlocked():
    one.mesh.update({"data": -1, "fsdp": fsdp, "spatial": 1, "tensor": tensor})
    one.stage.fields.remat = remat
    one.train.micro_batches = parts
  return one.lock()


def _held(
  config: ml_collections.ConfigDict, where: chips.Topology
) -> int | None:
  """Bytes of state and batch on a chip; None if the batch cannot be cut."""
  try:
    job = build_plan_jobs.make(config, where.name)
  except errors.BadInput:
    return None
  return sum(job.facts.held.values())
