r"""Other people's parameter names -> ours, with total accounting.

A rule is (source regex, target template, transform). The first rule whose
regex matches the whole source name takes the tensor; `target` is expanded
with the groups of the match (`r"layer_\1/ffn_in/kernel"`), or is None for a
tensor that is left out on purpose. Nothing is dropped or invented silently:

  each source tensor is taken by exactly one rule,
  each of our parameters is filled by exactly one source tensor,
  each shape agrees after the transform,

and whatever does not is listed, all at once, by name and shape.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imagen_jax.core import errors

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


def apply(
  rules: Sequence[Rule],
  arrays: Mapping[str, np.ndarray],
  shapes: Mapping[str, Shape],
  *,
  what: str = "checkpoint",
) -> dict[str, np.ndarray]:
  """Renames `arrays` into exactly the parameters that `shapes` names.

  `what` names the checkpoint in errors. The results are float views or copies
  in the dtype of the file.
  """
  problems = []
  result: dict[str, np.ndarray] = {}
  origin: dict[str, str] = {}
  for name, array in arrays.items():
    rule, target = _match(rules, name)
    if rule is None:
      problems.append(f"unused: {name} {array.shape}, no rule takes it")
    elif target is None:
      continue
    elif target not in shapes:
      problems.append(f"unused: {name} {array.shape}, we have no {target}")
    elif target in origin:
      problems.append(f"twice: {target} from {origin[target]} and {name}")
    else:
      origin[target] = name
      problems += _put(result, target, rule, name, array, shapes[target])
  for target, shape in shapes.items():
    if target not in origin:
      problems.append(f"missing: {target} {tuple(shape)}, nothing fills it")
  if problems:
    lines = "\n  ".join(problems)
    raise errors.CheckpointError(
      f"{what} does not fit, {len(problems)} problem(s):\n  {lines}"
    )
  return result


def _match(rules: Sequence[Rule], name: str) -> tuple[Rule | None, str | None]:
  """The first rule that takes `name`, and the target it gives."""
  for rule in rules:
    match = re.fullmatch(rule.source, name)
    if match:
      return rule, None if rule.target is None else match.expand(rule.target)
  return None, None


def _put(
  result: dict[str, np.ndarray],
  target: str,
  rule: Rule,
  name: str,
  array: np.ndarray,
  shape: Shape,
) -> list[str]:
  """Stores the transformed array, or says why its shape is wrong."""
  expected = tuple(shape)
  # Transforms permute or reshape; one that cannot is a wrong shape, too.
  try:
    value = rule.transform(array)
  except ValueError as error:
    return [f"wrong shape: {name} {array.shape} for {target}: {error}"]
  if value.shape != expected:
    return [
      f"wrong shape: {name} {array.shape} gives {value.shape},"
      f" {target} is {expected}"
    ]
  result[target] = value
  return []
