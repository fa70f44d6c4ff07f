"""The paper's optimisers: Adafactor for the base, Adam for SR (Appendix F).

Both with a linear warm-up to the learning rate, then constant or cosine to
zero, after clipping the gradient's global norm.
"""

from typing import Literal, assert_never, get_args

import optax

from imagen_jax.core import errors

OptimizerName = Literal["adam", "adafactor"]
Decay = Literal["constant", "cosine"]


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
) -> optax.GradientTransformation:
  """The update rule. Adafactor has optax's defaults, as the paper says."""
  if name == "adam":
    rule = optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
  elif name == "adafactor":
    rule = optax.adafactor(learning_rate)
  else:
    assert_never(name)
  return optax.chain(optax.clip_by_global_norm(clip_norm), rule)
