"""Reads the text of a compiled, partitioned program: its collectives.

XLA:TPU prints a collective in several forms, and each counts once here:

  plain     %all-gather.1 = bf16[64,128]{..} all-gather(%p), channel_id=2, ...
  pair      %x = (bf16[..], bf16[..], u32[], u32[]) collective-permute-start(..)
            and its -done
  fused     the same all-gather in many computations `async_collective_fusion`,
            each of which does a piece of it beside other work; all have one
            channel_id
  scatter   a computation `all-reduce-scatter`: an all-reduce of whole arrays,
            and each chip's slice of them. It is one reduce-scatter; gradients
            come like this, and "reduce-scatter" is printed nowhere

What is in a loop counts once a turn, where XLA says how many there are.

Bytes are of the whole arrays: what a gather gives and a reduction takes. In a
group of n chips joined in a ring each chip sends

  all-gather, reduce-scatter, all-to-all   (n - 1) / n of them
  all-reduce                             2 (n - 1) / n
  collective-permute                     all
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]

KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
)

_PIECES = ("async_collective_fusion", "fused_computation")
_SCATTER = "all-reduce-scatter"
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
  rf"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ({'|'.join(KINDS)})(-start)?\("
)
_PARAMETER = re.compile(r"^\s+%?[\w.\-]+ = (.+?) parameter\(\d+\)")
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? *\{([^}]*)\}"
)
_COUNT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CALL = re.compile(r"(calls|body|condition|to_apply)=%?([\w.\-]+)")
_ARRAY = re.compile(r"[a-z]+(\d*)[a-z\d]*\[([\d,]*)\]")


class Collective(NamedTuple):
  """One exchange between chips."""

  kind: str
  shapes: tuple[Shape, ...]  # of the whole arrays
  bytes: int  # of them, once
  group: tuple[int, ...]  # partitions of the first group that talk
  times: int  # a run of the program
  name: str  # where it comes from in the source, if XLA knows
  fused: bool  # done in pieces beside other work

  @property
  def sent(self) -> float:
    """Bytes that a chip sends in a run of the program."""
    n = len(self.group)
    if self.kind == "collective-permute":
      return float(self.bytes * self.times)
    rounds = 2 if self.kind == "all-reduce" else 1
    return rounds * (n - 1) / n * self.bytes * self.times


class Parameter(NamedTuple):
  """An argument of the whole program, as one chip holds it."""

  name: str
  shape: Shape
  bytes: int
  replicated: bool


def collectives(text: str) -> list[Collective]:
  """All that chips exchange; a group of one chip exchanges nothing."""
  turns = times(text)
  found, seen = [], set()
  for inside, line in lines(text):
    if (match := _COLLECTIVE.match(line)) is None:
      continue
    channel = re.search(r"channel_id=(\d+)", line)
    if channel is not None and inside.startswith(_PIECES):
      if channel[1] in seen:
        continue
      seen.add(channel[1])
    one = _collective(inside, line, match)
    if len(one.group) > 1:
      found.append(one._replace(times=turns(inside)))
  return found


def parameters(text: str, names: Sequence[str] = ()) -> list[Parameter]:
  """Of the entry computation.

  Where there are thousands, XLA takes them as one tuple and forgets what they
  are called; `names` are those of the arguments then, if it kept them all.
  """
  found = []
  for line in _entry(text):
    if (match := _PARAMETER.match(line)) is None:
      continue
    arrays = list(arrays_of(match[1]))
    wholes = re.findall(r"\{(?:(replicated)|devices=[^}]*)[^{}]*\}", line)
    called = [op_name(line).replace("\\'", "'")]
    if len(arrays) > 1:
      called = [f"argument {i}" for i in range(len(arrays))]
      called = list(names) if len(names) == len(arrays) else called
    wholes += [""] * (len(arrays) - len(wholes))  # where XLA says nothing
    for name, (shape, size), whole in zip(called, arrays, wholes, strict=True):
      found.append(Parameter(name, shape, size, bool(whole)))
  return found


def largest_replicated(
  text: str, names: Sequence[str] = ()
) -> Parameter | None:
  """The largest parameter of which each chip holds all."""
  whole = [one for one in parameters(text, names) if one.replicated]
  return max(whole, key=lambda parameter: parameter.bytes, default=None)


def activation_gathers(
  found: Collection[Collective], shapes: Collection[Shape]
) -> list[Collective]:
  """The all-gathers of what has no shape of a state's leaf.

  XLA turns and reshapes what it sends, so dimensions are compared in any order
  and without ones; a vector may come as (parts, 1, values of a part), and a
  table, whose rows a part has no round number of, as (parts, rows of a part,
  ...). A gather of an activation that happens to have a parameter's shape is
  taken for it.
  """
  known = {_unordered(shape) for shape in shapes}
  vectors = {shape[0] for shape in shapes if len(shape) == 1}

  def of_state(shape: Shape) -> bool:
    if _unordered(shape) in known:
      return True
    if len(shape) == 3 and shape[1] == 1 and math.prod(shape) in vectors:
      return True
    joined = (math.prod(shape[:2]), *shape[2:])
    return len(shape) == 3 and _unordered(joined) in known

  return [
    one
    for one in found
    if one.kind == "all-gather" and not all(map(of_state, one.shapes))
  ]


def axes(group: tuple[int, ...], mesh: Mapping[str, int]) -> tuple[str, ...]:
  """The axes of a mesh along which a group's partitions differ."""
  places = np.stack(np.unravel_index(group, tuple(mesh.values())), axis=1)
  differ = (places != places[0]).any(axis=0)
  return tuple(axis for axis, yes in zip(mesh, differ, strict=True) if yes)


def entry_name(text: str) -> str:
  """The computation that is the program."""
  match = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
  return match[1] if match else ""


def _entry(text: str) -> list[str]:
  return text[max(0, text.find("\nENTRY ")) :].splitlines()


def lines(text: str) -> Iterator[tuple[str, str]]:
  """(the computation it is in, line)."""
  inside = ""
  for line in text.splitlines():
    if line[:1] in ("%", "E") and (match := _COMPUTATION.match(line)):
      inside = match[1]
    else:
      yield inside, line


def _collective(inside: str, line: str, match: re.Match[str]) -> Collective:
  result, kind, start = match.groups()
  group = _group(line)
  arrays = list(arrays_of(result))
  if start and kind != "all-reduce":
    # (operands, results, what the chips signal each other with)
    arrays = [one for one in arrays if one[0]]
    arrays = arrays[len(arrays) // 2 :]
  if kind == "reduce-scatter":  # of the parts; how they were cut is unknown
    arrays = [(shape, size * len(group)) for shape, size in arrays]
  if kind == "all-reduce" and inside.startswith(_SCATTER):
    kind = "reduce-scatter"
  fused = inside.startswith(_PIECES)
  shapes, sizes = zip(*arrays, strict=True)
  return Collective(kind, shapes, sum(sizes), group, 1, op_name(line), fused)


def op_name(line: str) -> str:
  match = re.search(r'op_name="([^"]*)"', line)
  return match[1] if match else ""


def arrays_of(text: str) -> Iterator[tuple[Shape, int]]:
  """(shape, bytes) of each array of a type, "(bf16[2,3]{1,0}, f32[])"."""
  for bits, dims in _ARRAY.findall(text):
    shape = tuple(int(size) for size in dims.split(",") if size)
    yield shape, math.prod(shape) * int(bits or 8) // 8


def _group(line: str) -> tuple[int, ...]:
  """The partitions of the first group, in any of the forms of XLA."""
  if match := re.search(r"source_target_pairs=\{\{([\d,{}]*)\}\}", line):
    pairs = [pair.split(",") for pair in match[1].split("},{")]
    moved = [pair for pair in pairs if pair[0] != pair[1]]
    return tuple(int(place) for place in moved[0]) if moved else (0,)
  if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
    return tuple(int(place) for place in match[1].split(","))
  if match := re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
  ):
    wanted, dims, turned = (_numbers(part) for part in match.groups())
    places = np.arange(math.prod(dims)).reshape(dims)
    places = places.transpose(turned or range(len(dims)))
    return tuple(places.reshape(wanted)[0].tolist())
  if match := _MESH.search(line):
    return _mesh_group(*match.groups())
  return (0,)


def _mesh_group(mesh: str, devices: str | None, talking: str) -> tuple:
  """Of mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}.

  An axis may be a part of one: 'a':(2)2 is the second, of 2, after one of 2.
  """
  names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", mesh), strict=True)
  sizes = [int(size) for size in sizes]
  places = np.arange(math.prod(sizes))
  if match := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", devices or ""):
    dims, turned = _numbers(match[1]), _numbers(match[2])
    places = places.reshape(dims).transpose(turned or range(len(dims)))
  places = places.reshape(sizes)
  taken = [slice(0, 1)] * len(sizes)
  for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", talking):
    i, step = names.index(name), 1
    size = int(part) if part else sizes[i]
    if part:
      step = sizes[i] // (int(before) * size)
    taken[i] = slice(0, size * step, step)
  return tuple(places[tuple(taken)].reshape(-1).tolist())


def _numbers(text: str | None) -> list[int]:
  return [int(number) for number in text.split(",")] if text else []


def times(text: str) -> Callable[[str], int]:
  """A function: computation -> how often a run of the program enters it.

  XLA:TPU says nothing of a loop's turns, but a scan's condition compares a
  counter from 0 with a constant.
  """
  callers: dict[str, tuple[str, int]] = {}
  limits: dict[str, int] = {}
  constant = 1
  for inside, line in lines(text):
    if match := _COUNT.search(line):
      constant = int(match[1])
    elif "ROOT" in line and "direction=LT" in line:
      limits[inside] = constant
    elif "=%" in line:
      called = dict(_CALL.findall(line))
      turns = limits.get(called.get("condition", ""), 1)
      for name in called.values():
        callers.setdefault(name, (inside, turns))

  def of(name: str) -> int:
    total = 1
    while name in callers:
      name, count = callers[name]
      total *= count
    return total

  return of


def _unordered(shape: Shape) -> tuple[tuple[int, int], ...]:
  return tuple(sorted(Counter(n for n in shape if n != 1).items()))
