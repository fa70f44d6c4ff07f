"""Examples that could not be used: told, counted, and stopped at a budget.

Which examples are bad is a property of the set, so a run that is entered at
step n rejects what an unbroken run rejects from step n on. The count starts at
nought with each run, and each host counts its own rows.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from imagen_jax.core import errors


class Reject(NamedTuple):
  """An example that was passed over, and why."""

  key: str
  reason: str


# Called with each reject and the step whose batch it was for.
Report: TypeAlias = Callable[[Reject, int], None]


@dataclasses.dataclass(frozen=True)
class Budget:
  """How many rejects a run bears: `count`, and later a share of those read."""

  count: int = 100
  fraction: float = 0.001


DEFAULT = Budget()


class Ledger:
  """Counts examples and rejects, in the order of the steps."""

  def __init__(self, budget: Budget, report: Report | None = None):
    if budget.count < 0 or not 0 <= budget.fraction <= 1:
      raise errors.BadInput(
        f"a budget of {budget.count} rejects or a share of {budget.fraction} is"
        " none; give a count >= 0 and a share in [0, 1]."
      )
    self._budget = budget
    self._report = report
    self.examples = 0
    self.rejects = 0

  def add(self, step: int, examples: int, rejects: Sequence[Reject]) -> None:
    """Counts a batch; DataError above both the count and the share."""
    self.examples += examples
    self.rejects += len(rejects)
    for reject in rejects:
      if self._report is not None:
        self._report(reject, step)
    allowed = max(
      self._budget.count, self._budget.fraction * (self.examples + self.rejects)
    )
    if rejects and self.rejects > allowed:
      raise errors.DataError(
        f"{self.rejects} of {self.examples + self.rejects} examples could not"
        f" be used up to step {step}, more than {int(allowed)}; the last is"
        f" {rejects[-1].key!r}: {rejects[-1].reason} Look at the set with:"
        " imagen data verify"
      )
