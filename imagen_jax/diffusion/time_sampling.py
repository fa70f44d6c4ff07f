"""How training draws its times: (key, b) -> t [b] in [0, 1].

Imagen draws t ~ U(0, 1) for each example (Appendix A). Stratified times have
the same marginal and a less noisy loss; logit-normal times favour the middle.
"""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Key


@runtime_checkable
class SampleTime(Protocol):
  """(key, b) -> t [b] in [0, 1]."""

  def __call__(self, key: Key, b: int) -> Float[Array, "{b}"]: ...


def uniform(key: Key, b: int) -> Float[Array, "{b}"]:
  """t ~ U(0, 1), independently."""
  return jax.random.uniform(key, (b,), jnp.float32)


def stratified(key: Key, b: int) -> Float[Array, "{b}"]:
  """One t ~ U(i / b, (i + 1) / b) for each i, in random order."""
  order = jax.random.permutation(rng.key_for(key, "order"), b)
  offset = jax.random.uniform(rng.key_for(key, "offset"), (b,), jnp.float32)
  return (order.astype(jnp.float32) + offset) / b


def logit_normal(
  key: Key, b: int, *, mean: float = 0.0, std: float = 1.0
) -> Float[Array, "{b}"]:
  """t = sigmoid(mean + std * normal)."""
  if not std > 0.0:
    raise errors.BadInput(f"std is {std}; it must be positive.")
  normal = jax.random.normal(key, (b,), jnp.float32)
  return jax.nn.sigmoid(mean + std * normal)


@functools.cache
def by_name(name: str) -> SampleTime:
  """uniform, stratified or logit_normal."""
  table = {
    "uniform": uniform,
    "stratified": stratified,
    "logit_normal": logit_normal,
  }
  if name not in table:
    raise errors.BadInput(
      f"time sampling {name!r} is unknown; use one of {', '.join(table)}."
    )
  return table[name]
