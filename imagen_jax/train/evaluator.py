"""What the loop calls at intervals: pictures, numbers.

The loop knows this protocol alone; `build.py` brings the parts.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath

from imagen_jax.train.state import TrainState


@runtime_checkable
class Evaluator(Protocol):
  """Looks at a state every `every` steps."""

  every: int

  def __call__(
    self, state: TrainState, step: int, workdir: epath.Path
  ) -> dict[str, float | np.ndarray]:
    """Writes what it makes under `workdir`; returns what to log.

    Numbers, and pictures [h w 3] in uint8.
    """
    ...
