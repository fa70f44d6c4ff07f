"""Are the parameters of a checkpoint numbers, and have they learned?

In units of the way w that the raw ones have come, |raw - initial| = w:

  EMA at the start   |ema - initial| = 0, it was never updated
  EMA behind         |ema - raw| / w near 1 or above

An EMA that follows stays well below: by its warm-up it forgets all but the
last tenth of the steps, or its own window if that is shorter.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Params
from imagen_jax.health import findings

_BEHIND = 0.5
_SHOWN = 3


def finite(params: Params, which: str, step: int) -> findings.Finding:
  """Whether every value is a number; names the leaves of which not."""
  check = f"{which} finite"
  bad = [
    name
    for name, leaf in tree.flatten(params).items()
    if not np.isfinite(np.asarray(leaf, np.float32)).all()
  ]
  if not bad:
    return findings.ok(check, f"all {tree.count(params):,} parameters are")
  return findings.problem(
    check,
    f"{len(bad)} leaves of step {step} are not: {', '.join(bad[:_SHOWN])}",
    "go back to an earlier step (delete this one), with a lower"
    " optimizer.learning_rate or train.spike_deviations=6",
    errors.NonFinite,
  )


def learned(
  raw: Params, ema: Params, initial: Params, step: int
) -> list[findings.Finding]:
  """How far raw and EMA have come from the initial parameters."""
  moved, followed, apart = (
    float(_distance(*pair))
    for pair in ((raw, initial), (ema, initial), (ema, raw))
  )
  if step == 0:
    return []
  if moved == 0:
    return [
      findings.problem(
        "raw moved",
        f"after {step} steps they are those of step 0: nothing was learned",
        "look at optimizer.learning_rate, at optimizer.rules, and whether all"
        " updates were skipped: `skipped` in metrics.jsonl",
        errors.BadInput,
      )
    ]
  size = float(optax.global_norm(initial))
  raw_said = f"{moved:.3g} from their start, whose norm is {size:.3g}"
  return [
    findings.ok("raw moved", raw_said),
    _ema(moved, followed, apart, step),
  ]


def _ema(
  moved: float, followed: float, apart: float, step: int
) -> findings.Finding:
  behind = apart / moved
  said = f"{behind:.0%} of the way behind the raw parameters"
  if followed == 0:
    return findings.problem(
      "EMA follows",
      f"after {step} steps it is that of step 0: it was never updated",
      "set train.ema_decay below 1; sample raw ones (--raw) until it is",
      errors.BadInput,
    )
  if apart == 0:
    return findings.warning(
      "EMA follows",
      "it is the raw parameters: nothing is averaged",
      "set train.ema_decay, to 0.999 for thousands of steps or 0.9999 for more",
    )
  if behind > _BEHIND:
    return findings.warning(
      "EMA follows",
      f"it is {said}",
      "train longer, or lower train.ema_decay: it averages over"
      " 1 / (1 - decay) steps",
    )
  return findings.ok("EMA follows", said)


@jax.jit
def _distance(a: Params, b: Params) -> Float[Array, ""]:
  difference = jax.tree.map(
    lambda x, y: jnp.asarray(x, jnp.float32) - jnp.asarray(y, jnp.float32), a, b
  )
  return optax.global_norm(difference)
