"""Low-rank adapters (Hu et al. 2021): W + (alpha / rank) A B in place of W.

  kernel of Dense   [in, out]        A [in, rank]         B [rank, out]
  kernel of Conv    [kh, kw, c, co]  A [kh, kw, c, rank]  B [rank, co]

A is random, B zero: training starts at the base. Both are trained, W is not.
The networks know nothing of it: adapters are a tree of their own, {name of the
kernel: {"a", "b"}}, and `apply` gives the tree that a network takes:

  grads = jax.grad(lambda adapters: loss(apply(base, adapters, alpha=16.0)))

so that optimizer state, EMA and checkpoints are of the adapters' size. What
stays is one copy of the base, and for a moment the gradient of each adapted W.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from imagen_jax.core import errors, files, rng, tree
from imagen_jax.core.arrays import Key, Params
from imagen_jax.train import evaluator as evaluator_lib
from imagen_jax.train.state import TrainState
from imagen_jax.weights import native, tensors

# Attention's projections, those of the text pooling among them, and the text's.
# More: r".*/shortcut/kernel" are convolutions 1x1, r".*/conv_\d/kernel" 3x3.
RULES = (
  r".*/(query|key|value|text_key|text_value|out)/kernel",
  r"conditioning/text_projection/kernel",
)
FORMAT = "imagen_jax adapters"
VERSION = 1

_Pair: TypeAlias = tuple[tree.Leaf, tree.Leaf]  # A, B


class Loaded(NamedTuple):
  """What a file of adapters holds."""

  adapters: Params
  alpha: float


def create(
  shapes: Params, key: Key, *, rank: int, rules: Sequence[str] = RULES
) -> Params:
  """Adapters of the kernels in `shapes` whose whole names match a rule.

  A is N(0, 1 / fan in): of inputs of variance 1 it makes such.
  """
  if rank < 1:
    raise errors.BadInput(f"rank {rank} is no rank; give 1 or more.")
  adapters = {}
  for name, leaf in _chosen(shapes, rules).items():
    *inner, out = leaf.shape
    a = jax.random.normal(rng.key_for(key, name), (*inner, rank))
    adapters[f"{name}/a"] = a / math.sqrt(math.prod(inner))
    adapters[f"{name}/b"] = jnp.zeros((rank, out))
  return tree.unflatten(adapters)


def apply(params: Params, adapters: Params, *, alpha: float) -> Params:
  """The parameters with their adapters, in the dtypes that they have."""
  pairs = _pairs(adapters)
  _check_fit(params, pairs)

  def adapted(name: str, leaf: tree.Leaf) -> tree.Leaf:
    if name not in pairs:
      return leaf
    a, b = pairs[name]
    return (leaf + (alpha / len(b)) * _product(a, b)).astype(leaf.dtype)

  return tree.map_named(adapted, params)


def merge(params: Params, adapters: Params, *, alpha: float) -> Params:
  """`apply` for a file: one tree as of any training, on the host."""
  return jax.device_get(apply(params, adapters, alpha=alpha))


def digest(params: Params) -> str:
  """SHA-256 of the parameters in bfloat16.

  So a checkpoint, its export and what is read from that are the same base.
  """
  digests = {
    name: tensors.digest(np.asarray(leaf).astype(jnp.bfloat16))
    for name, leaf in tree.flatten(params).items()
  }
  return tensors.fingerprint(digests)


def save(
  path: files.PathLike, adapters: Params, *, alpha: float, base: Params
) -> None:
  """Writes the adapters alone, in float32, and what they are made for."""
  metadata = {
    "format": FORMAT,
    "version": str(VERSION),
    "alpha": json.dumps(alpha),
    "base_sha256": digest(base),
  }
  native.save_params(path, adapters, metadata, jnp.float32)


def load(path: files.PathLike, *, base: Params) -> Loaded:
  """The adapters of a file; BadInput if they were made for another base."""
  adapters, metadata = native.load_params(path)
  said = (metadata.get("format"), metadata.get("version"))
  if said != (FORMAT, str(VERSION)):
    raise errors.BadInput(
      f"{os.fspath(path)} is {said[0]!r} version {said[1]}, expected {FORMAT!r}"
      f" version {VERSION}; give a file of adapters."
    )
  wanted, given = metadata["base_sha256"], digest(base)
  if wanted != given:
    raise errors.BadInput(
      f"{os.fspath(path)} holds adapters for parameters with the digest"
      f" {wanted[:12]}..., and these have {given[:12]}...; use them with the"
      " weights that they were trained on."
    )
  return Loaded(adapters, json.loads(metadata["alpha"]))


@dataclasses.dataclass(frozen=True, eq=False)
class WithBase:
  """An evaluator of a whole stage, for a state that holds adapters alone."""

  evaluator: evaluator_lib.Evaluator
  base: Params
  alpha: float

  @property
  def every(self) -> int:
    return self.evaluator.every

  def __call__(
    self, state: TrainState, step: int, workdir: epath.Path
  ) -> dict[str, float | np.ndarray]:
    whole = state.replace(
      params=apply(self.base, state.params, alpha=self.alpha),
      ema_params=apply(self.base, state.ema_params, alpha=self.alpha),
    )
    return self.evaluator(whole, step, workdir)


def _chosen(shapes: Params, rules: Sequence[str]) -> dict[str, tree.Leaf]:
  """The kernels to adapt; each rule matches one at least, and nothing else."""
  leaves = tree.flatten(shapes)
  matched = {
    rule: [name for name in leaves if re.fullmatch(rule, name)]
    for rule in rules
  }
  if unused := [rule for rule, names in matched.items() if not names]:
    raise errors.BadInput(
      f"lora.rules {', '.join(map(repr, unused))} matches no parameter; a rule"
      " matches whole names, as in '.*/query/kernel'."
    )
  chosen = {name for names in matched.values() for name in names}
  wrong = [name for name in sorted(chosen) if len(leaves[name].shape) < 2]
  if wrong or not chosen:
    raise errors.BadInput(
      f"lora.rules match {', '.join(wrong[:3]) or 'nothing'}; adapters are for"
      " kernels, of two dimensions or more. Let the rules end in /kernel."
    )
  return {name: leaf for name, leaf in leaves.items() if name in chosen}


def _pairs(adapters: Params) -> dict[str, _Pair]:
  """{name of the kernel: (A, B)}."""
  leaves = tree.flatten(adapters)
  names = {name.rpartition("/")[0] for name in leaves}
  return {name: (leaves[f"{name}/a"], leaves[f"{name}/b"]) for name in names}


def _check_fit(
  params: Params, pairs: dict[str, tuple[tree.Leaf, tree.Leaf]]
) -> None:
  made = {n: (*a.shape[:-1], b.shape[1]) for n, (a, b) in pairs.items()}
  leaves = tree.flatten(params)
  wrong = [
    f"{name} {shape}"
    for name, shape in made.items()
    if name not in leaves or leaves[name].shape != shape
  ]
  if wrong:
    raise errors.BadInput(
      f"{len(wrong)} adapters fit no parameter of this stage, among them"
      f" {', '.join(sorted(wrong)[:3])}; use the stage they were made for."
    )


def _product(
  a: Float[Array, "*inner rank"] | Float[np.ndarray, "*inner rank"],
  b: Float[Array, "rank out"] | Float[np.ndarray, "rank out"],
) -> Float[Array, "*inner out"]:
  # In full precision, which TPUs do not take by themselves: what is merged on
  # another machine is then what was trained.
  return jnp.einsum("...r,ro->...o", a, b, precision=jax.lax.Precision.HIGHEST)
