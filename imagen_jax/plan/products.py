"""FLOPs of the products in a compiled program, each turn of a loop counted.

XLA counts what is in a loop once, whatever its turns. `of_more_turns` is what
the others compute: two for each multiply-add of

  dot           output * what is contracted
  convolution   output * kernel's inputs, at the places of a window that lie in
                the image, not in its padding or between its strides

What is elementwise is left out: XLA's count has it for one turn.
"""

import itertools
import math
import re

from imagen_jax.plan import hlo

_MADE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_PRODUCTS = ("dot", "convolution")


def of_more_turns(text: str) -> float:
  """FLOPs of a run of the program beyond one turn of each loop."""
  times = hlo.times(text)
  return sum(
    (flops * (times(inside) - 1) for inside, flops in products(text)), 0.0
  )


def products(text: str) -> list[tuple[str, float]]:
  """(the computation it is in, FLOPs of one turn) of each product."""
  shapes: dict[tuple[str, str], hlo.Shape] = {}
  found = []
  for inside, line in hlo.lines(text):
    if (match := _MADE.match(line)) is None:
      continue
    name, result, op, rest = match.groups()
    if (made := next(hlo.arrays_of(result), None)) is not None:
      shapes[inside, name] = made[0]
    if op in _PRODUCTS:
      left, right = _operands(inside, rest.partition(")")[0], shapes)
      flops = _dot if op == "dot" else _convolution
      found.append((inside, flops(line, left, right, made[0])))
  return found


def _operands(
  inside: str, text: str, shapes: dict[tuple[str, str], hlo.Shape]
) -> tuple[hlo.Shape, hlo.Shape]:
  """Shapes, as they are printed or else as they were made."""
  printed = [shape for shape, _ in hlo.arrays_of(text)]
  if len(printed) == 2:
    return printed[0], printed[1]
  left, right = re.findall(r"%?([a-zA-Z][\w.\-]*)", text)
  return shapes[inside, left], shapes[inside, right]


def _dot(line: str, left: hlo.Shape, _: hlo.Shape, result: hlo.Shape) -> float:
  match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
  axes = [int(axis) for axis in match[1].split(",") if axis] if match else []
  return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)


def _convolution(
  line: str, left: hlo.Shape, right: hlo.Shape, result: hlo.Shape
) -> float:
  labels = re.search(r"dim_labels=(\w+?)_(\w+?)->(\w+)", line).groups()
  image, kernel, out = (
    dict(zip(names, shape, strict=True))
    for names, shape in zip(labels, (left, right, result), strict=True)
  )
  window = dict(re.findall(r"(\w+)=([\d_x\-]+)", _window(line)))
  places = 1
  for i, axis in enumerate(sorted(set(out) - {"b", "f"})):
    places *= _places(image[axis], kernel[axis], out[axis], window, i)
  groups = re.search(r"batch_group_count=(\d+)", line)
  rows = image["b"] // (int(groups[1]) if groups else 1)
  return 2.0 * rows * out["f"] * kernel["i"] * places


def _window(line: str) -> str:
  match = re.search(r"window=\{([^}]*)\}", line)
  return match[1] if match else ""


def _places(
  size: int, kernel: int, out: int, window: dict[str, str], i: int
) -> int:
  """Pairs of a result and a place of its window where there is a number."""

  def of_axis(name: str, default: int) -> int:
    return int(window[name].split("x")[i]) if name in window else default

  stride, between = of_axis("stride", 1), of_axis("lhs_dilate", 1)
  apart = of_axis("rhs_dilate", 1)
  pads = window.get("pad", "").split("x")
  before = int(pads[i].split("_")[0]) if "pad" in window else 0
  last = (size - 1) * between
  return sum(
    0 <= at <= last and at % between == 0
    for o, k in itertools.product(range(out), range(kernel))
    for at in (o * stride + k * apart - before,)
  )
