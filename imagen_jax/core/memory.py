"""How much memory there is, where that is known."""

import jax


def host_bytes() -> int | None:
  """Memory that is free on this machine, as Linux has it."""
  try:
    with open("/proc/meminfo", encoding="ascii") as file:
      for line in file:
        if line.startswith("MemAvailable:"):
          return int(line.split()[1]) * 1024
  except OSError:
    return None
  return None


def device_bytes() -> int | None:
  """Memory of the smallest device, where it is not the host's."""
  found = [device.memory_stats() or {} for device in jax.local_devices()]
  limits = [s["bytes_limit"] for s in found if "bytes_limit" in s]
  return min(limits, default=None)
