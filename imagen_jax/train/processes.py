"""Several processes as one run: joining, agreeing, and whose rows are whose.

Each process has its devices; together they form a mesh of one axis, `data`.
The state is the same on every device, and a batch is cut along that axis:
process i of p makes rows [i b/p, (i + 1) b/p) of the b. The step is compiled
once for all devices, and draws its noise by the global row, so that the run is
that of one process, up to the order of sums.

Process 0 alone writes metrics and events; all see one workdir.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from imagen_jax.core import errors, files

_SHUTDOWN_S = 60  # the last of them waits so long for the others
_TEXT_BYTES = 1 << 16  # room for what processes compare

Values = Mapping[str, str]


def join(
  coordinator: str | None = None,
  process_id: int | None = None,
  num_processes: int | None = None,
  heartbeat_s: int = 30,
) -> None:
  """Joins the processes of a run, before anything else uses a device.

  `coordinator` is HOST:PORT of process 0, with the other two; or "auto", where
  JAX finds all three (Cloud TPU, Slurm, Kubernetes). None is one process, but
  on a TPU of several hosts, which says so, "auto". A process that is dead for
  `heartbeat_s` ends the others.
  """
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
  if coordinator is None and len(hosts) > 1:
    coordinator = "auto"
  given = (process_id is not None, num_processes is not None)
  if any(given) != all(given) or any(given) != (
    coordinator not in (None, "auto")
  ):
    raise errors.BadInput(
      "--coordinator=HOST:PORT, --process_id and --num_processes go together;"
      " or give --coordinator=auto alone; or none of them, for one process."
    )
  if coordinator is None:
    return
  address = None if coordinator == "auto" else coordinator
  try:
    jax.distributed.initialize(
      address,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=heartbeat_s,
      shutdown_timeout_seconds=_SHUTDOWN_S,
    )
  except (ValueError, RuntimeError) as error:
    raise errors.BadInput(
      f"cannot join the processes of {coordinator}:"
      f" {str(error).splitlines()[0]}"
    ) from error


def code_hash() -> str:
  """SHA-256 of the package's sources, its first 16 digits."""
  here = Path(__file__).parents[1]
  return files.sha256_files(sorted(here.rglob("*.py")))[:16]


def check_agreement(mine: Values) -> None:
  """Raises BadInput in every process if one has other values than process 0."""
  if jax.process_count() == 1:
    return
  text = json.dumps(dict(mine), sort_keys=True).encode()
  assert len(text) <= _TEXT_BYTES
  row = np.zeros(_TEXT_BYTES, np.uint8)
  row[: len(text)] = np.frombuffer(text, np.uint8)
  rows = multihost_utils.process_allgather(row)
  all_values = [json.loads(bytes(r).rstrip(b"\0")) for r in rows]
  if complaint := disagreement(all_values):
    raise errors.BadInput(complaint)


def disagreement(values: list[dict[str, str]]) -> str:
  """What differs between process 0 and another, with both values; or ""."""
  for name in sorted(set().union(*values)):
    first = values[0].get(name)
    for process, other in enumerate(values[1:], 1):
      if other.get(name) != first:
        return (
          f"the processes differ in {name}: process 0 has {first!r}, process"
          f" {process} has {other.get(name)!r}; start all with the same."
        )
  return ""


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def my_rows(batch_size: int) -> slice:
  """The rows of a batch that this process makes."""
  count = batch_size // jax.process_count()
  first = jax.process_index() * count
  return slice(first, first + count)


def cut(batch: dict) -> dict:
  """My rows of a batch that has those of all processes."""
  if jax.process_count() == 1:
    return batch
  return {name: values[my_rows(len(values))] for name, values in batch.items()}
