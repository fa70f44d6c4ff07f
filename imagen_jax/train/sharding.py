"""Where each part of a state lies: ordered rules, by name and shape.

A rule is (pattern of whole names, tactic); the first that fits holds, every
parameter must fit one, and every rule must be some parameter's, but those of
`RULES` and `ENCODER_RULES`, which are for networks of several kinds. Tactics:

  replicate  whole, on every device
  fsdp       cut along its largest dimension over `fsdp`
  column     and its outputs over `tensor`: [in, out / t]
  row        and its inputs over `tensor`: [in / t, out]; follows a column

A dimension that an axis does not divide is left whole, and so is what is small:
gathering it would cost more than it saves. Moments and the moving average lie
as their parameter does.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Params
from imagen_jax.train import mesh as mesh_lib

Tactic = Literal["replicate", "fsdp", "column", "row"]
Rules: TypeAlias = Sequence[tuple[str, str]]

# Of both U-Nets. Between the two convolutions of a block, and between an
# attention's projections, channels stay cut: one sum a block over `tensor`.
RULES: Rules = (
  (r".*/(query|key|value|text_key|text_value)/kernel", "column"),
  (r".*/out/kernel", "row"),
  (r".*block_\d+/conv_0/kernel", "column"),
  (r".*block_\d+/conv_1/kernel", "row"),
  (r".*kernel", "fsdp"),
  (r".*", "replicate"),
)
# Of text encoders, BERT, CLIP and T5, whose layers may be stacked
# [layers, in, out], and whose matrices may be int8 with scales [out].
ENCODER_RULES: Rules = (
  (r".*/(query|key|value|ffn_in|wi|wi_0|wi_1)/kernel(_int8)?", "column"),
  (r".*/(out|ffn_out|wo)/kernel(_int8)?", "row"),
  (r".*/embedding(_int8)?", "fsdp"),
  (r".*", "replicate"),
)
SMALL = 1 << 16  # numbers; what has fewer is not cut


class Row(NamedTuple):
  """A parameter in the plan."""

  name: str
  shape: tuple[int, ...]
  rule: str
  spec: PartitionSpec
  local_bytes: int  # on each device


def plan(params: Params, mesh: Mesh, rules: Rules = RULES) -> list[Row]:
  """Where each parameter lies. `params` may be shapes."""
  rows = []
  unused = {pattern for pattern, _ in rules}
  for name, leaf in tree.flatten(params).items():
    pattern, tactic = _rule(name, rules)
    unused.discard(pattern)
    spec = spec_of(leaf.shape, tactic, mesh)
    size = tree.size_bytes(leaf)
    rows.append(
      Row(name, leaf.shape, pattern, spec, size // _parts(spec, mesh))
    )
  if unused and tuple(rules) not in (RULES, ENCODER_RULES):
    raise errors.BadInput(
      f"mesh.rules {', '.join(map(repr, sorted(unused)))} match no parameter"
      " that an earlier rule does not; take them out."
    )
  return rows


def params_shardings(
  params: Params, mesh: Mesh, rules: Rules = RULES
) -> PyTree:
  """A NamedSharding for each parameter, by `plan`."""
  specs = {row.name: row.spec for row in plan(params, mesh, rules)}
  return tree.map_named(
    lambda name, _: NamedSharding(mesh, specs[name]), params
  )


def state_shardings(
  state: PyTree, params: Params, mesh: Mesh, rules: Rules = RULES
) -> PyTree:
  """A NamedSharding for each leaf of a state, from its shapes.

  A leaf whose name ends in a parameter's is of that parameter: with its shape
  it lies beside it, with another (Adafactor's rows and columns) it is cut as
  `fsdp` says. All else, counters and the guard, is on every device.
  """
  rows = {row.name: row for row in plan(params, mesh, rules)}

  def place(name: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    row = _owner(name, rows)
    if row is None:
      spec = PartitionSpec()
    elif row.shape == leaf.shape:
      spec = row.spec
    else:
      spec = spec_of(leaf.shape, "fsdp", mesh)
    return NamedSharding(mesh, spec)

  return tree.map_named(place, state)


def batch_sharding(mesh: Mesh, rank: int) -> NamedSharding:
  """Of an array [b ...]; the rows of an image [b h w c] are cut as well."""
  height = ("spatial",) if rank == 4 else ()
  return NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH, *height))


def put(values: PyTree, shardings: PyTree) -> PyTree:
  """Each array where its sharding says; all processes have the same values."""
  return jax.tree.map(put_leaf, values, shardings)


def put_leaf(
  leaf: jax.Array | np.ndarray, sharding: jax.sharding.Sharding
) -> jax.Array:
  """One array, of which each device gets its part alone."""
  value = np.asarray(leaf)
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def abstract(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Shapes that say where what they stand for is to lie."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def gather(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
  """A parameter cut over `fsdp`, whole again along that axis, to be used.

  Its gradient goes back cut, as a sum of which each device gets its part. Left
  to itself, the partitioner may gather activations instead, whole batches.
  """
  spec = [None if axis == "fsdp" else axis for axis in sharding.spec]
  used = NamedSharding(sharding.mesh, PartitionSpec(*spec))

  @jax.custom_vjp
  def gathered(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, used)

  def back(_: None, grad: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(grad, sharding),)

  gathered.defvjp(lambda x: (gathered(x), None), back)
  return gathered(leaf)


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole, on every device."""
  return NamedSharding(mesh, PartitionSpec())


def share(batch: PyTree, mesh: Mesh) -> PyTree:
  """The batch of all processes from the rows of this one.

  Rows lie in the order of the processes' devices.
  """
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(
      batch_sharding(mesh, rows.ndim), np.asarray(rows)
    ),
    batch,
  )


def check_batch(batch_size: int, micro_batches: int, mesh: Mesh) -> None:
  """Raises BadInput if a batch cannot be cut evenly over the devices."""
  n = mesh_lib.batch_parts(mesh) * micro_batches
  if batch_size % n:
    lower = batch_size - batch_size % n
    raise errors.BadInput(
      f"batch_size {batch_size} is not divisible by {n}, the"
      f" {mesh_lib.describe(mesh)} times {micro_batches} micro_batches; use"
      f" {lower or n} or {lower + n}."
    )


def spec_of(shape: tuple[int, ...], tactic: str, mesh: Mesh) -> PartitionSpec:
  """What a tactic makes of a shape."""
  if tactic not in get_args(Tactic):
    raise errors.BadInput(
      f"tactic {tactic!r} is not known; use one of"
      f" {', '.join(get_args(Tactic))}."
    )
  axes: list[str | None] = [None] * len(shape)
  if tactic == "replicate" or math.prod(shape) < SMALL:
    return PartitionSpec()
  cut = {"column": len(shape) - 1, "row": len(shape) - 2}.get(tactic)
  if cut is not None and _divides(mesh, "tensor", shape[cut]):
    axes[cut] = "tensor"
  whole = [
    i
    for i, size in enumerate(shape)
    if axes[i] is None and _divides(mesh, "fsdp", size)
  ]
  if whole:
    axes[max(whole, key=lambda i: (shape[i], i))] = "fsdp"
  while axes and axes[-1] is None:
    axes.pop()
  return PartitionSpec(*axes)


def table(rows: Sequence[Row]) -> str:
  """The plan in words: by rule and spec, and the largest that stays whole."""
  groups: dict[tuple[str, str], list[Row]] = {}
  for row in rows:
    groups.setdefault((row.rule, str(row.spec)), []).append(row)
  lines = [f"{'rule':<52} {'lies as':<28} {'n':>4} {'numbers':>14}"]
  for (rule, spec), members in groups.items():
    numbers = sum(math.prod(row.shape) for row in members)
    spec = spec.removeprefix("PartitionSpec")
    lines.append(f"{rule:<52} {spec:<28} {len(members):>4} {numbers:>14,}")
  local = sum(row.local_bytes for row in rows)
  lines.append(f"{len(rows)} parameters, {local / 1e6:,.1f} MB on each device")
  if (largest := largest_whole(rows)) is not None:
    size = largest.local_bytes / 1e6
    lines.append(f"largest that is whole: {largest.name}, {size:.2f} MB")
  return "\n".join(lines)


def largest_whole(rows: Sequence[Row]) -> Row | None:
  """The largest parameter that is not cut, if any."""
  whole = [row for row in rows if not any(row.spec)]
  return max(whole, key=lambda row: row.local_bytes, default=None)


def _rule(name: str, rules: Rules) -> tuple[str, str]:
  for pattern, tactic in rules:
    if re.fullmatch(pattern, name):
      return pattern, tactic
  raise errors.BadInput(
    f"no rule of mesh.rules fits the parameter {name!r}; let the last be"
    " ('.*', 'replicate')."
  )


def _owner(name: str, rows: dict[str, Row]) -> Row | None:
  """The parameter whose name `name` ends in."""
  parts = name.split("/")
  for i in range(1, len(parts)):
    if (row := rows.get("/".join(parts[i:]))) is not None:
      return row
  return None


def _divides(mesh: Mesh, axis: str, size: int) -> bool:
  return mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0


def _parts(spec: PartitionSpec, mesh: Mesh) -> int:
  return math.prod(mesh.shape[axis] for axis in spec if axis is not None)
