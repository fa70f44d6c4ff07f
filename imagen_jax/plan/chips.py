"""What each kind of chip can do: what an estimate is compared with.

  peak        dense bfloat16 FLOP/s
  hbm         bytes that a program can use. A TPU's runtime keeps some of the
              16, 32 or 95 GiB for itself; XLA says how much is left
  bandwidth   of HBM, bytes/s
  link        bytes/s that a chip sends to the others of a group: on a TPU along
              one ring, both ways at once; on a GPU through NVLink, one way

Peaks and HBM are the vendors' figures (Google Cloud's pages of each TPU,
NVIDIA's data sheets). Links of TPUs are those of "How to Scale Your Model"
(jax-ml.github.io/scaling-book), from memory: 45 GB/s each way for v4 and v5e,
90 GB/s for v5p and v6e. Usable HBM is what XLA:TPU names when a program does
not fit; that of v4, v5p and v6e is from memory.
"""

import math
import re
from typing import NamedTuple

from imagen_jax.core import errors

_GIB = float(1 << 30)


class Chip(NamedTuple):
  """One device of JAX: a chip, and on v4 and v5p its two cores as one."""

  name: str
  peak: float
  hbm: float
  bandwidth: float
  link: float
  example: str  # a topology


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 275e12, 30.75 * _GIB, 1.2e12, 90e9, "v4:8x8x4"),
    Chip("v5e", 197e12, 15.75 * _GIB, 0.82e12, 90e9, "v5e:16x16"),
    Chip("v5p", 459e12, 95.0 * _GIB, 2.77e12, 180e9, "v5p:4x4x8"),
    Chip("v6e", 918e12, 31.25 * _GIB, 1.64e12, 180e9, "v6e:16x16"),
    Chip("h100", 989e12, 80e9, 3.35e12, 450e9, "gpu:8xh100"),
    Chip("h200", 989e12, 141e9, 4.8e12, 450e9, "gpu:8xh200"),
  )
}


class Topology(NamedTuple):
  """Chips that are asked for, as in "v5e:16x16" or "gpu:8xh200"."""

  name: str
  chip: Chip
  count: int
  is_tpu: bool


def topology(name: str) -> Topology:
  """Reads a topology's name; BadInput if it is none."""
  if match := re.fullmatch(r"gpu:([1-9]\d*)x(\w+)", name):
    chip = CHIPS.get(match[2])
    if chip is not None and chip.example.startswith("gpu:"):
      return Topology(name, chip, int(match[1]), False)
  if match := re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})", name):
    chip = CHIPS.get(match[1])
    if chip is not None and not chip.example.startswith("gpu:"):
      sides = [int(side) for side in match[2].split("x")]
      if len(sides) == chip.example.count("x") + 1:
        return Topology(name, chip, math.prod(sides), True)
  examples = ", ".join(chip.example for chip in CHIPS.values())
  raise errors.BadInput(
    f"topology {name!r} is not known; write a chip and the sides of its slice,"
    f" or gpu: and how many of which: {examples}."
  )
