"""Where the time of a window of steps goes, and what memory it takes.

The loop names what it waits for; all else is the steps':

  clock = Clock(batch_size, flops_per_image=...)
  with clock.waiting("data_wait"):
    batch = next(batches)
  state, metrics = run_step(...)
  clock.step()
  row = clock.close()

The device runs behind the host, so that a wait for data may cost the device
nothing: `data_wait_share` is the most that it can. A window ends where its
metrics are read, which waits for the device: images/s are true. The seconds of
a row add up to those since the row before.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import jax

from imagen_jax.train import flops

# Seconds of the host that are not the steps'; names of the columns, with _s.
Wait = Literal["compile", "data_wait", "save", "evaluate"]
WAITS: tuple[str, ...] = get_args(Wait)


class Clock:
  """Adds up waits between two rows, by a clock that never goes back.

  `batch_size` is that of all devices; `flops_per_image` that of training, 0 for
  no TFLOP/s.
  """

  def __init__(
    self,
    batch_size: int,
    *,
    flops_per_image: float = 0.0,
    now: Callable[[], float] = time.monotonic,
  ):
    self._batch_size = batch_size
    self._flops = flops_per_image
    self._now = now
    self._begin()

  def _begin(self) -> None:
    self._started = self._now()
    self._steps = 0
    self._waits = dict.fromkeys(WAITS, 0.0)

  @contextlib.contextmanager
  def waiting(self, what: Wait) -> Iterator[None]:
    """Counts the time within as `what`; these do not nest."""
    start = self._now()
    try:
      yield
    finally:
      self._waits[what] += self._now() - start

  def step(self) -> None:
    """One more step was handed to the device."""
    self._steps += 1

  def close(self) -> dict[str, float]:
    """The numbers of the window; the next one begins."""
    waits, steps = self._waits, self._steps
    wall = self._now() - self._started
    busy = wall - sum(waits.values())
    # A step's time is what a step takes: with its data, without the rest.
    cycle = busy + waits["data_wait"]
    self._begin()
    row = {"steps_s": busy} | {f"{what}_s": s for what, s in waits.items()}
    if steps and cycle > 0:
      rate = steps * self._batch_size / cycle
      row |= {
        "step_time_s": cycle / steps,
        "data_wait_share": waits["data_wait"] / cycle,
        "images_per_s": rate,
      } | self._rates(rate)
    return row

  def _rates(self, images_per_s: float) -> dict[str, float]:
    if not self._flops:
      return {}
    return flops.rates(
      self._flops,
      images_per_s,
      devices=jax.device_count(),
      device_kind=jax.devices()[0].device_kind,
    )


def memory() -> dict[str, float]:
  """GB of this process, and of the fullest local device where it says so."""
  row = {}
  if (resident := _resident_bytes()) is not None:
    row["host_rss_gb"] = resident / 1e9
  found = [device.memory_stats() or {} for device in jax.local_devices()]
  for column, name in (
    ("device_gb", "bytes_in_use"),
    ("device_peak_gb", "peak_bytes_in_use"),
  ):
    if used := [stats[name] for stats in found if name in stats]:
      row[column] = max(used) / 1e9
  return row


def _resident_bytes() -> int | None:
  """Resident memory now, as Linux has it; elsewhere not known."""
  try:
    with open("/proc/self/status", encoding="ascii") as file:
      for line in file:
        if line.startswith("VmRSS:"):
          return int(line.split()[1]) * 1024
  except OSError:
    return None
  return None
