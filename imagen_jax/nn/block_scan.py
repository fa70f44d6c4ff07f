"""Equal blocks in one loop: a compiler sees one of them, whatever their number.

  h, y_i = step(blocks_i, h, taken_i)      i = 0 .. n - 1

Blocks keep their parameters under their own names, so a checkpoint is of the
looped and of the unrolled network alike. Where the parameters of consecutive
turns have the same shapes, and what they take too, these are stacked and
`lax.scan` runs over them; a turn that equals none beside it stays as it is. All
numbers are the same but for rounding, and dropout, which draws others.

The price is memory and its traffic: stacks are copies of the parameters, of
what turns take, and of gradients on the way back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from imagen_jax.core.arrays import Image, Params

# Makes a block, given `name` and, for one outside of any network, `parent`.
Make: TypeAlias = Callable[..., nn.Module]
Call: TypeAlias = Callable[..., Array]
Blocks: TypeAlias = Mapping[str, Call]  # those of one turn, by kind
# (blocks, h, what this turn takes) -> (h, what it gives)
Step: TypeAlias = Callable[[Blocks, Array, PyTree], tuple[Array, PyTree]]


def run(
  parent: nn.Module,
  makes: Mapping[str, Make],
  names: Sequence[Mapping[str, str]],
  step: Step,
  h: Image,
  taken: Sequence[PyTree] | None = None,
  *,
  scan: bool = False,
  forget: bool = False,
) -> tuple[Float[Array, "b h w c2"], list[PyTree]]:
  """The last h, and what each turn gave; to be called in `parent`.

  `makes` has a maker for each kind of block in a turn, and `names[i]` what
  those of turn i are called. `step` must be pure. `scan` False unrolls all.
  With `forget`, gradients compute it all again from h and what is taken.
  """
  taken = [None] * len(names) if taken is None else taken
  if not forget or parent.is_initializing():
    return _turns(parent, h, taken, makes, names, step, scan)

  def again(parent: nn.Module, h: Image, taken: Sequence[PyTree]) -> tuple:
    return _turns(parent, h, taken, makes, names, step, scan)

  return nn.remat(again)(parent, h, taken)


def _turns(
  parent: nn.Module,
  h: Image,
  taken: Sequence[PyTree],
  makes: Mapping[str, Make],
  names: Sequence[Mapping[str, str]],
  step: Step,
  scan: bool,
) -> tuple[Float[Array, "b h w c2"], list[PyTree]]:
  if not scan or parent.is_initializing():
    given = []
    for called, one in zip(names, taken, strict=True):
      h, out = step(_named(makes, called), h, one)
      given.append(out)
    return h, given
  params = parent.variables["params"]
  parts = [
    {kind: params[name] for kind, name in called.items()} for called in names
  ]
  given = []
  for first, last in _runs(list(zip(parts, taken, strict=True))):
    turns = slice(first, last)
    if last - first == 1:
      h, out = step(_named(makes, names[first]), h, taken[first])
      given.append(out)
      continue
    with jax.named_scope("_".join(names[first].values())):
      h, outs = _scanned(parent, makes, step, h, parts[turns], taken[turns])
    given += outs
  return h, given


def _named(
  makes: Mapping[str, Make], called: Mapping[str, str]
) -> dict[str, Call]:
  return {kind: makes[kind](name=name) for kind, name in called.items()}


def _runs(turns: Sequence[PyTree]) -> Iterator[tuple[int, int]]:
  """(first, last + 1) of consecutive turns of the same shapes.

  What one of them makes of h has the shape of h then: the next takes it with
  parameters of the same shapes.
  """
  shapes = [_shapes(turn) for turn in turns]
  first = 0
  for i in range(1, len(turns) + 1):
    if i == len(turns) or shapes[i] != shapes[first]:
      yield first, i
      first = i


def _shapes(part: PyTree) -> tuple[PyTree, list[tuple]]:
  leaves, structure = jax.tree.flatten(part)
  return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _scanned(
  parent: nn.Module,
  makes: Mapping[str, Make],
  step: Step,
  h: Image,
  parts: Sequence[dict[str, Params]],
  taken: Sequence[PyTree],
) -> tuple[Image, list[PyTree]]:
  key = parent.make_rng("dropout") if parent.has_rng("dropout") else None

  def turn(h: Image, turn_: tuple) -> tuple[Image, PyTree]:
    i, params, one = turn_
    rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}

    def applied(kind: str) -> Call:
      variables = {"params": params[kind]}
      block = makes[kind](name=None, parent=None)
      return lambda *given: block.apply(variables, *given, rngs=rngs)

    return step({kind: applied(kind) for kind in makes}, h, one)

  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
  taken = jax.tree.map(lambda *leaves: jnp.stack(leaves), *taken)
  n = len(parts)
  h, outs = jax.lax.scan(turn, h, (jnp.arange(n), stacked, taken))
  return h, [jax.tree.map(lambda out, i=i: out[i], outs) for i in range(n)]
