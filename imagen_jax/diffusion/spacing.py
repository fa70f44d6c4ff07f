"""Where the steps of a sampler lie: falling times t, the last step ending at 0.

  uniform   t_i = 1 - i / n
  logsnr    evenly in logsnr, from that of t = 0.995 to that of t = 0.005, as is
            advised for DPM-Solver (Lu et al. 2022, arXiv:2206.00927); nearer to
            the ends there is little but noise, or less noise than 8 bits show
  leading   the steps 0, k, 2 k, ... of 0..999 with k = 1000 // n, as diffusers'
            default; step j is t = j / 999
  smart27   and its like: DeepFloyd IF's lists. 0..999 is cut into sections of
            (nearly) equal length, the cleanest first; of each so many steps are
            taken, evenly from its first to its last, as in Nichol & Dhariwal
            (2021)

The number at the end of a list's name is how many steps it has.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.core import errors
from imagen_jax.diffusion import schedules

STEPS = 1000  # of the discrete process that the lists are made for
# Steps in each section, from the cleanest to the noisiest.
SECTIONS: dict[str, tuple[int, ...]] = {
  "fast27": (10, 10, 3, 2, 2),
  "smart27": (7, 4, 2, 1, 2, 4, 7),
  "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
  "smart100": (
    *(1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13),
  ),
  "smart185": (
    *(1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
    *(18, 20),
  ),
  "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
  "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
  "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}
NAMES = ("uniform", "logsnr", "leading", *SECTIONS)
_CUT = 0.005  # of t, at both ends of "logsnr"


def check(name: str, steps: int) -> None:
  """Raises BadInput for an unknown name, or a number of steps it has not."""
  if name not in NAMES:
    raise errors.BadInput(
      f"spacing {name!r} is unknown; use one of {', '.join(NAMES)}."
    )
  if name in SECTIONS and steps != sum(SECTIONS[name]):
    raise errors.BadInput(
      f"spacing {name!r} has {sum(SECTIONS[name])} steps, and steps is {steps};"
      " set it to that, or choose another spacing."
    )
  if name == "leading" and steps > STEPS:
    raise errors.BadInput(
      f"steps is {steps}; spacing 'leading' has at most {STEPS}."
    )


def logsnr(
  name: str, steps: int, schedule: schedules.Schedule
) -> Float[Array, "{steps}+1"]:
  """Where each step begins, and the end of the last, t = 0; rising."""
  check(name, steps)
  if name == "logsnr":
    noisy, clean, end = schedule(jnp.asarray([1.0 - _CUT, _CUT, 0.0]))
    return jnp.append(jnp.linspace(noisy, clean, steps), end)
  return schedule(jnp.asarray(np.append(times(name, steps), 0.0)))


def times(name: str, steps: int) -> Float[np.ndarray, "{steps}"]:
  """The t in [0, 1] of the same, falling, in float64; not for "logsnr"."""
  check(name, steps)
  if name == "uniform":
    return np.linspace(1.0, 0.0, steps + 1)[:-1]
  return discrete(name, steps) / (STEPS - 1.0)


def discrete(name: str, steps: int) -> Float[np.ndarray, "{steps}"]:
  """The same as steps of 0..999, for all but "uniform", "logsnr"."""
  if name == "leading":
    return np.arange(steps, dtype=np.float64)[::-1] * (STEPS // steps)
  counts = SECTIONS[name]
  size, more = divmod(STEPS, len(counts))
  chosen, start = [], 0
  for index, count in enumerate(counts):
    length = size + (index < more)
    # A section of one step has its first. Added up and rounded to even as the
    # original does, whose sums end a little beside the halves.
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    position = 0.0
    for _ in range(count):
      chosen.append(start + round(position))
      position += stride
    start += length
  return np.asarray(chosen[::-1], np.float64)
