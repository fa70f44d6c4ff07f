"""Which checkpoints stay: the latest, every K-th step, and the best."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Policy(NamedTuple):
  """How many to keep; what any of the three keeps, stays."""

  latest: int = 3
  every: int = 0  # steps divisible by it stay for good; 0 is none
  best: int = 0  # how many by score
  higher_is_better: bool = False


def kept(
  steps: Collection[int], policy: Policy, scores: Mapping[int, float]
) -> set[int]:
  """The steps that stay. The newest always does.

  A score that is not finite, or is not there, is no reason to keep a step.
  """
  newest_first = sorted(steps, reverse=True)
  stay = set(newest_first[: max(policy.latest, 1)])
  if policy.every:
    stay |= {step for step in steps if step % policy.every == 0}
  sign = -1 if policy.higher_is_better else 1
  ranked = sorted(
    (
      step for step in newest_first if math.isfinite(scores.get(step, math.nan))
    ),
    key=lambda step: sign * scores[step],
  )  # of equals the newest comes first
  return stay | set(ranked[: policy.best])
