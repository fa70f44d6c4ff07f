"""Trees of arrays with slash names: `down_0/conv/kernel`."""

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, PyTree

Leaf: TypeAlias = (
  jax.Array | np.ndarray | jax.ShapeDtypeStruct | jax.sharding.Sharding
)


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, Leaf]:
  """{slash name: leaf}, in the tree's own order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Leaf]) -> dict:
  """Nested dicts from slash names."""
  tree: dict = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def map_named(function: Callable[[str, Leaf], Leaf], tree: PyTree) -> PyTree:
  """`function(name, leaf)` for each leaf, in a tree of the same structure."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: function(_name(path), leaf), tree
  )


def count(tree: PyTree) -> int:
  """The number of values in all leaves; shapes suffice."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: PyTree) -> int:
  """The bytes of all leaves; shapes and dtypes suffice."""
  return sum(
    math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
  """Floating leaves in `dtype`, the others as they are."""

  def cast_leaf(leaf: Leaf) -> Leaf:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)

  return jax.tree.map(cast_leaf, tree)


def mask(tree: PyTree, pattern: str) -> PyTree:
  """True where the whole slash name matches the regular expression."""
  regex = re.compile(pattern)
  return map_named(lambda name, _: bool(regex.fullmatch(name)), tree)


def diff(a: PyTree, b: PyTree) -> str:
  """A readable table of names, shapes and dtypes that differ; "" if none."""
  left, right = flatten(a), flatten(b)
  rows = []
  for name in sorted(left.keys() | right.keys()):
    first, second = (_describe(side.get(name)) for side in (left, right))
    if first != second:
      rows.append(f"{name}: {first} | {second}")
  return "\n".join(rows)


def table(tree: PyTree, *, depth: int = 1) -> str:
  """Parameters by the first `depth` parts of the name, with a total."""
  groups: dict[str, int] = {}
  for name, leaf in flatten(tree).items():
    group = "/".join(name.split("/")[:depth])
    groups[group] = groups.get(group, 0) + math.prod(leaf.shape)
  groups["total"] = sum(groups.values())
  width = max(len(group) for group in groups)
  rows = [f"{group:<{width}}  {n:>15,}" for group, n in groups.items()]
  return "\n".join(rows)


def _describe(leaf: Leaf | None) -> str:
  if leaf is None:
    return "missing"
  return f"{tuple(leaf.shape)} {jnp.dtype(leaf.dtype).name}"
