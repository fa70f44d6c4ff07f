"""What a compiled program keeps in HBM, reads from it and writes to it.

XLA's own "bytes accessed" counts what stays on the chip, and all that passes
through an `async_collective_fusion`, again for each piece of it. Here are the
instructions of the entry and of what it loops over: each reads its operands and
writes its results, those that lie in HBM. XLA:TPU says where an array lies in
its layout, {1,0:T(8,128)S(1)}: without an S it is HBM.

  copy-start             both ends
  slice-start            the slice, not what it is cut from
  async_collective_fusion  without the gather's arrays, which pass by; these
                         count once, whole
"""

import math
import re
from collections.abc import Iterator

from imagen_jax.plan import hlo

_MADE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"[a-z]+(\d*)[a-z\d]*\[([\d,]*)\](\{[^}]*\})?")
_ENTERED = re.compile(r"(?:body|to_apply|computation)=%?([\w.\-]+)")
_ENTERS = ("while", "conditional", "call")
_FREE = (
  *("parameter", "get-tuple-element", "bitcast", "tuple", "constant"),
  *("iota", "partition-id", "after-all", *_ENTERS),
)
_FREE_CALLS = ('"AllocateBuffer"', '"ConcatBitcast"')


def hbm_bytes(text: str) -> int:
  """Of one run of the program, on one chip."""
  lines = _by_computation(text)
  times = hlo.times(text)
  total = sum(
    times(name) * _of_computation(lines[name], lines)
    for name in _executed(hlo.entry_name(text), lines)
    if name in lines
  )
  fused = (one for one in hlo.collectives(text) if one.fused)
  return total + sum(one.bytes * one.times for one in fused)


def largest(text: str, count: int = 3) -> list[tuple[str, int]]:
  """(how many, type and place in the source, bytes of one) of what is made.

  Arrays of one type are one row; not all of a row live at once.
  """
  lines = _by_computation(text)
  rows: dict[str, tuple[int, int, str]] = {}
  for name in _executed(hlo.entry_name(text), lines):
    for line in lines.get(name, ()):
      match = _MADE.match(line)
      if match is None or match[3] in _FREE or match[3].endswith("-done"):
        continue
      for array in _ARRAY.finditer(match[2]):
        ((_, size, in_hbm),) = _arrays(array[0])
        if in_hbm:
          kind = array[0].partition("{")[0]
          number, _, place = rows.get(kind, (0, 0, hlo.op_name(line)))
          rows[kind] = number + 1, size, place
  found = sorted(rows.items(), key=lambda row: -row[1][1])[:count]
  return [
    (f"{number} x {kind} {'/'.join(place.split('/')[-2:])}".strip(), size)
    for kind, (number, size, place) in found
  ]


def _by_computation(text: str) -> dict[str, list[str]]:
  lines: dict[str, list[str]] = {}
  for inside, line in hlo.lines(text):
    lines.setdefault(inside, []).append(line)
  return lines


def _executed(entry: str, lines: dict[str, list[str]]) -> Iterator[str]:
  """The entry, and what it and those call; not what is fused."""
  waiting = [entry]
  while waiting:
    name = waiting.pop()
    yield name
    for line in lines.get(name, ()):
      match = _MADE.match(line)
      if match is not None and match[3] in _ENTERS:
        waiting += _ENTERED.findall(line)


def _of_computation(own: list[str], lines: dict[str, list[str]]) -> int:
  types: dict[str, str] = {}
  total = 0
  for line in own:
    if (match := _MADE.match(line)) is None:
      continue
    name, result, op, rest = match.groups()
    types[name] = result
    if op in _FREE or op.endswith("-done"):
      continue
    if op == "custom-call" and any(call in line for call in _FREE_CALLS):
      continue
    if op.endswith("-start"):
      total += _of_start(op, result)
      continue
    operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
    passing = _passing(line, lines)
    for part in (result, *(types.get(operand, "") for operand in operands)):
      total += sum(
        size
        for shape, size, in_hbm in _arrays(part)
        if in_hbm and shape not in passing
      )
  return total


def _of_start(op: str, result: str) -> int:
  """Of (to, from, signal), or of ((from), slice, signal)."""
  arrays = [one for one in _arrays(result) if one[0]]
  if op == "slice-start":
    (_, _, from_hbm), (_, size, to_hbm) = arrays[:2]
    return size * (from_hbm + to_hbm)
  return sum(size for _, size, in_hbm in arrays if in_hbm)


def _passing(line: str, lines: dict[str, list[str]]) -> set[hlo.Shape]:
  """Shapes of the gather that a fusion does a piece of, whole and in part."""
  match = re.search(r"calls=%(async_collective_fusion[\w.\-]*)", line)
  shapes: set[hlo.Shape] = set()
  types: dict[str, str] = {}
  for inner in lines.get(match[1], ()) if match else ():
    if (made := _MADE.match(inner)) is None:
      continue
    name, types[made[1]], op, rest = made[1], made[2], made[3], made[4]
    if op in hlo.KINDS:
      operand = re.search(r"%([\w.\-]+)", rest)
      for part in (types[name], types.get(operand[1], "")):
        shapes |= {shape for shape, _, _ in _arrays(part)}
  return shapes


def _arrays(text: str) -> Iterator[tuple[hlo.Shape, int, bool]]:
  """(shape, bytes, whether it lies in HBM) of each array of a type."""
  for bits, dims, layout in _ARRAY.findall(text):
    shape = tuple(int(size) for size in dims.split(",") if size)
    size = math.prod(shape) * int(bits or 8) // 8
    yield shape, size, "S(" not in layout
