"""Does the stage read its text? By swapping prompts: see `evals.prompt_swap`.

The shipped base changes what it sees by 1.2 of its size at logsnr -6 when the
prompt is another's, and a network that is not trained by exactly 0. A
super-resolution stage has its image from x_lr, and text moves it by 0.01: only
none at all is strange there.
"""

import math
from collections.abc import Mapping

from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.core.arrays import Cond, Image, Params
from imagen_jax.evals import prompt_swap
from imagen_jax.health import findings
from imagen_jax.train import state as state_lib

BASE_LEAST, SR_LEAST = 0.02, 1e-5
_SETTLED = 1000  # steps, before which text may well not matter yet


def changes(
  stage: stage_lib.Stage,
  params: Params,
  x0: Image,
  cond: Cond,
  *,
  aug_level: float,
) -> dict[str, float]:
  """What `prompt_swap` measures, of these parameters."""
  swap = prompt_swap.PromptSwap(
    stage=stage,
    x0=x0,
    cond=cond,
    every=1,
    aug_level=aug_level,
  )
  nothing = state_lib.Guard((), (), (), (), ())
  state = state_lib.TrainState(0, params, params, (), nothing)
  return swap(state, 0, epath.Path())


def judge(
  found: Mapping[str, float], step: int, *, is_base: bool
) -> findings.Finding:
  """Whether another prompt changes anything, where it does most."""
  change = max(x for name, x in found.items() if "/other_" in name)
  if not math.isfinite(change):
    return findings.skipped("text used", "what is drawn is not finite")
  least = BASE_LEAST if is_base else SR_LEAST
  said = f"another prompt changes the image by {change:.2g} of its size"
  if change >= least:
    return findings.ok("text used", said)
  if step < _SETTLED:
    return findings.warning(
      "text used",
      f"{said}, so text does not matter yet, at step {step}",
      "look again after some thousand steps; prompt_swap/ in metrics.jsonl is"
      " to grow, first at logsnr -6",
    )
  remedy = (
    "see that captions fit their images (imagen data stats draws a sheet),"
    " that embeddings differ (above), that stage.text_drop_rate is about 0.1,"
    " and that the network has text attention at some resolution"
  )
  if not is_base:
    return findings.warning(
      "text used", f"text ignored: {said}; a base would need it", remedy
    )
  return findings.problem(
    "text used",
    f"text ignored: {said}, after {step} steps; it should be above {least}",
    remedy,
    errors.BadInput,
  )
