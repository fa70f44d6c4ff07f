"""The paper's optimisers: Adafactor for the base, Adam for SR (Appendix F).

Both with a linear warm-up to the learning rate, then constant or cosine to
zero, after clipping the gradient's global norm.

Ordered rules (regex of the whole name -> factor) say how fast each parameter
learns; the first that fits holds, and a factor of 0 freezes: no state, no part
in the gradient's norm.
"""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, assert_never, get_args

import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Params

OptimizerName = Literal["adam", "adamw", "adafactor"]
Decay = Literal["constant", "cosine"]
Rules: TypeAlias = Sequence[tuple[str, float]]


def check(name: str, decay: str) -> None:
  """Raises BadInput for a name that is not one of the known."""
  for what, given, known in (
    ("optimizer", name, get_args(OptimizerName)),
    ("decay", decay, get_args(Decay)),
  ):
    if given not in known:
      raise errors.BadInput(
        f"{what} {given!r} is not known; use one of {', '.join(known)}."
      )


def learning_rate_schedule(
  learning_rate: float,
  *,
  warmup_steps: int,
  decay: Decay = "constant",
  total_steps: int,
) -> optax.Schedule:
  """Step -> learning rate. Cosine ends at zero at `total_steps`.

  The paper prints `end_value=2500000` for its cosine, which cannot be meant.
  """
  if decay == "cosine":
    after = optax.cosine_decay_schedule(
      learning_rate, max(total_steps - warmup_steps, 1)
    )
  elif decay == "constant":
    after = optax.constant_schedule(learning_rate)
  else:
    assert_never(decay)
  if warmup_steps == 0:
    return after
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


def make(
  name: OptimizerName,
  learning_rate: optax.Schedule,
  *,
  clip_norm: float = 1.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  decayed: str = ".*kernel",
  rules: Rules = (),
) -> optax.GradientTransformation:
  """The update rule. Adafactor has optax's defaults, as the paper says.

  `weight_decay` acts on the parameters whose names match `decayed`; in
  Adafactor, as optax has it, by itself and not times the learning rate.
  """

  def mask(params: Params) -> PyTree:
    return tree.mask(params, decayed)

  if name == "adam":
    if weight_decay:
      raise errors.BadInput("adam has no weight_decay; use adamw.")
    rule = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
  elif name == "adamw":
    rule = optax.adamw(
      learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask
    )
  elif name == "adafactor":
    rule = optax.adafactor(
      learning_rate,
      weight_decay_rate=weight_decay or None,
      weight_decay_mask=mask,
    )
  else:
    assert_never(name)
  clip = optax.clip_by_global_norm(clip_norm)
  if not rules:
    return optax.chain(clip, rule)
  return optax.chain(
    optax.stateless(lambda grads, _: freeze(grads, rules)),
    clip,
    optax.masked(rule, lambda params: trainable(params, rules)),
    optax.stateless(lambda updates, _: _scale(updates, rules)),
  )


def factors(params: Params, rules: Rules) -> dict[str, float]:
  """The factor of each parameter, by name.

  Raises BadInput if a parameter fits no rule, or a rule is no parameter's.
  """
  unused = dict.fromkeys(pattern for pattern, _ in rules)
  found, unmatched = {}, []
  for name in tree.flatten(params):
    for pattern, factor in rules:
      if re.fullmatch(pattern, name):
        found[name] = factor
        unused.pop(pattern, None)
        break
    else:
      unmatched.append(name)
  if unmatched or unused:
    raise errors.BadInput(
      f"optimizer.rules leave {len(unmatched)} parameters without a rule"
      f" ({', '.join(unmatched[:5]) or 'none'}) and {len(unused)} rules without"
      f" a parameter ({', '.join(map(repr, unused)) or 'none'}); a pattern"
      " matches whole names, and the first that fits holds."
    )
  return found


def trainable(params: Params, rules: Rules) -> PyTree:
  """True for the parameters that are not frozen."""
  found = factors(params, rules)
  return tree.map_named(lambda name, _: found[name] != 0, params)


def freeze(grads: Params, rules: Rules) -> Params:
  """Zero for the gradients of frozen parameters."""
  if not rules:
    return grads
  found = factors(grads, rules)
  return tree.map_named(
    lambda name, grad: grad if found[name] else jnp.zeros_like(grad), grads
  )


def _scale(updates: Params, rules: Rules) -> Params:
  found = factors(updates, rules)
  return tree.map_named(
    lambda name, update: update if found[name] == 1 else found[name] * update,
    updates,
  )
