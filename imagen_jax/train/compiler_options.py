"""What XLA is told beside the program, by platform, each with its reason.

All of it is to let collectives run while a chip computes: parameters are
gathered ahead of the layer that uses them, gradients scattered behind the one
that made them. They are compile options of the program itself: nothing has to
be exported on every host, and a plan is compiled as a run is. The TPU's names
are those that libtpu 0.0.42 takes; what they gain was not measured on a chip.
"""

from typing import NamedTuple, TypeAlias

from jax.sharding import Mesh

Options: TypeAlias = dict[str, bool | int]


class Option(NamedTuple):
  """One option of XLA."""

  name: str
  value: bool | int
  reason: str


_TPU = (
  Option(
    "xla_tpu_enable_latency_hiding_scheduler", True,
    "orders the program so that what is sent has time to arrive",
  ),
  Option(
    "xla_tpu_enable_async_collective_fusion", True,
    "runs collectives beside computation, in one fusion",
  ),
  Option(
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather", True,
    "the gathers of fsdp among them",
  ),
  Option(
    "xla_tpu_enable_async_collective_fusion_multiple_steps", True,
    "one collective may span several fusions, as a gather outlasts a layer",
  ),
  Option(
    "xla_tpu_overlap_compute_collective_tc", True,
    "the matrix unit goes on meanwhile",
  ),
  Option(
    "xla_enable_async_all_gather", True,
    "a gather is a start and a done, with work in between",
  ),
)  # fmt: skip

_GPU = (
  Option(
    "xla_gpu_enable_latency_hiding_scheduler", True,
    "orders the program so that what is sent has time to arrive",
  ),
  Option(
    "xla_gpu_all_gather_combine_threshold_bytes", 128 << 20,
    "few large gathers: a kernel of the base has 75 MB in bfloat16",
  ),
  Option(
    "xla_gpu_reduce_scatter_combine_threshold_bytes", 128 << 20,
    "as the gathers",
  ),
  Option(
    "xla_gpu_enable_while_loop_double_buffering", True,
    "micro-batches and sampling steps prefetch across turns of their loop",
  ),
)  # fmt: skip

TABLE = {"tpu": _TPU, "gpu": _GPU, "cpu": ()}


def of_mesh(mesh: Mesh) -> Options | None:
  """For jit's compiler_options; None where there is nothing to overlap."""
  if mesh.size == 1:
    return None
  platform = mesh.devices.flat[0].platform
  rows = TABLE.get("gpu" if platform in ("cuda", "rocm") else platform, ())
  return {row.name: row.value for row in rows} or None
