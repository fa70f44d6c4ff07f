"""The flag --mesh=data=4,spatial=2: the devices that a command is spread over.

Sizes are those of `config.mesh`, and so is the default of `data`: all devices
that are left. With every size given, the first devices suffice.
"""

import argparse
import math

import jax

from imagen_jax import build
from imagen_jax.cli import arguments
from imagen_jax.core import errors
from imagen_jax.train import mesh as mesh_lib


def add(parser: argparse.ArgumentParser) -> None:
  """Adds the flag."""
  parser.add_argument(
    "--mesh",
    metavar="AXIS=N,...",
    help="spread over several devices: data and fsdp cut the batch, fsdp and"
    " tensor the weights, spatial the rows of an image; default: one device",
  )


def parse(text: str | None) -> jax.sharding.Mesh | None:
  """The mesh that the flag names; None without it. Raises BadInput."""
  if text is None:
    return None
  sizes: dict[str, int] = {}
  for part in text.split(","):
    axis, _, number = (word.strip() for word in part.partition("="))
    if axis not in mesh_lib.AXES:
      near = arguments.did_you_mean(axis, mesh_lib.AXES)
      raise errors.BadInput(
        f"--mesh={text}: {axis!r} is no axis{near} Use"
        f" {', '.join(mesh_lib.AXES)}, as in --mesh=data=4,spatial=2."
      )
    if axis in sizes or not number.lstrip("-").isdecimal():
      raise errors.BadInput(
        f"--mesh={text}: {axis} needs one whole number, as in"
        " --mesh=data=4,spatial=2."
      )
    sizes[axis] = int(number)
  sizes.setdefault("data", -1)
  used = 0 if -1 in sizes.values() else math.prod(sizes.values())
  if not 0 <= used <= jax.device_count():
    raise errors.BadInput(
      f"--mesh={text} is of {used} devices, and there are"
      f" {jax.device_count()} ({jax.devices()[0].device_kind}); on a CPU,"
      f" XLA_FLAGS=--xla_force_host_platform_device_count={used} makes as many."
    )
  return build.mesh({"mesh": sizes | {"devices": used, "rules": ()}})
