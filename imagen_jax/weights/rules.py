r"""Other people's parameter names -> ours, with total accounting.

A rule is (source regex, target template, transform). The first rule whose
regex matches the whole source name takes the tensor; `target` is expanded
with the groups of the match (`r"layer_\1/ffn_in/kernel"`), or is None for a
tensor that is left out on purpose. Nothing is dropped or invented silently:

  each source tensor is taken by exactly one rule,
  each of our parameters is filled by exactly one source tensor,
  each shape agrees after the transform,

and whatever does not is listed, all at once, by name and shape. A plan is made
from names and shapes alone, before any tensor is read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imagen_jax.core import errors
from imagen_jax.weights.tensors import Tensor

Shape = tuple[int, ...]
Transform = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
  """The tensor as it is."""
  return x


def transpose(x: np.ndarray) -> np.ndarray:
  """PyTorch's Linear weight [out in] -> a Dense kernel [in out]."""
  return np.swapaxes(x, -1, -2)


class Rule(NamedTuple):
  """One line of a conversion table; `target` None leaves the tensor out."""

  source: str
  target: str | None
  transform: Transform = same


class Planned(NamedTuple):
  """Where one of our parameters comes from."""

  source: str
  transform: Transform


def plan(
  rules: Sequence[Rule],
  tensors: Mapping[str, np.ndarray | Tensor],
  shapes: Mapping[str, Shape],
  *,
  what: str = "checkpoint",
) -> dict[str, Planned]:
  """The one source of each parameter that `shapes` names, or CheckpointError.

  `what` names the checkpoint in errors.
  """
  problems = []
  result: dict[str, Planned] = {}
  for name, tensor in tensors.items():
    shape = tuple(tensor.shape)
    rule, target = match(rules, name)
    if rule is None:
      problems.append(f"unused: {name} {shape}, no rule takes it")
    elif target is None:
      continue
    elif target not in shapes:
      problems.append(f"unused: {name} {shape}, we have no {target}")
    elif target in result:
      first = result[target].source
      problems.append(f"twice: {target} from {first} and {name}")
    else:
      result[target] = Planned(name, rule.transform)
      problems += _misfit(rule, name, shape, target, tuple(shapes[target]))
  for target, shape in shapes.items():
    if target not in result:
      problems.append(f"missing: {target} {tuple(shape)}, nothing fills it")
  if problems:
    lines = "\n  ".join(problems)
    raise errors.CheckpointError(
      f"{what} does not fit, {len(problems)} problem(s):\n  {lines}"
    )
  return result


def apply(
  rules: Sequence[Rule],
  arrays: Mapping[str, np.ndarray],
  shapes: Mapping[str, Shape],
  *,
  what: str = "checkpoint",
) -> dict[str, np.ndarray]:
  """Renames `arrays` into exactly the parameters that `shapes` names.

  The results are views or copies in the dtype of the file.
  """
  planned = plan(rules, arrays, shapes, what=what)
  return {
    target: source.transform(arrays[source.source])
    for target, source in planned.items()
  }


def match(rules: Sequence[Rule], name: str) -> tuple[Rule | None, str | None]:
  """The first rule that takes `name`, and the target it gives."""
  for rule in rules:
    found = re.fullmatch(rule.source, name)
    if found:
      return rule, None if rule.target is None else found.expand(rule.target)
  return None, None


def transformed(transform: Transform, shape: Shape) -> Shape:
  """The shape that a transform gives; it reads no values."""
  return transform(np.broadcast_to(np.False_, shape)).shape


def _misfit(
  rule: Rule, name: str, shape: Shape, target: str, expected: Shape
) -> list[str]:
  """Says why the transformed shape is wrong, if it is."""
  # Transforms permute or reshape; one that cannot is a wrong shape, too.
  try:
    given = transformed(rule.transform, shape)
  except ValueError as error:
    return [f"wrong shape: {name} {shape} for {target}: {error}"]
  if given != expected:
    return [
      f"wrong shape: {name} {shape} gives {given}, {target} is {expected}"
    ]
  return []
