"""Flags that set how each stage is sampled: one value, or one for each stage.

  --steps=64       every stage
  --steps=64,32    the first stage, then the second
  --steps=,32      the second alone; the first as it was

One value of --aug_level is for the stages that enlarge; a base takes none.
"""

import argparse
from collections.abc import Sequence
from typing import get_args

from imagen_jax.cascade import folder
from imagen_jax.cli import arguments
from imagen_jax.core import errors
from imagen_jax.diffusion import sampler_settings, spacing

_Kind = type | tuple[str, ...]  # a type, or the names to choose from

# Flag and field of SamplerSettings: what it takes, placeholder, help.
_FLAGS: dict[str, tuple[_Kind, str, str]] = {
  "guidance_weight": (float, "W", "1 is off; higher follows the text more"),
  "guidance_schedule": (
    get_args(sampler_settings.GuidanceSchedule),
    "NAME",
    "constant, interval or oscillating",
  ),
  "threshold": (
    get_args(sampler_settings.Threshold),
    "NAME",
    "none, static or dynamic",
  ),
  "percentile": (float, "P", "of dynamic thresholding, in (0, 100]"),
  "threshold_cap": (float, "S", "on the scale of dynamic thresholding, >= 1"),
  "steps": (int, "N", "denoising steps"),
  "spacing": (spacing.NAMES, "NAME", "where they lie: uniform, logsnr, ..."),
  "sampler": (
    get_args(sampler_settings.Sampler),
    "NAME",
    "ancestral, ddim, dpm_solver_pp, sde_dpm_solver_pp or unipc",
  ),
  "gamma": (float, "G", "ancestral noise, 0 (small) to 1 (large)"),
  "eta": (float, "E", "noise of ddim, 0 (none) to 1 (ancestral, gamma 0)"),
  "aug_level": (float, "A", "noise on the low-resolution image, 0 to 1"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags as a group of their own."""
  group = parser.add_argument_group(
    "sampling",
    "one value for all stages, or one for each, separated by commas;"
    " without a flag the stage's own setting holds",
  )
  for name, (_, placeholder, text) in _FLAGS.items():
    group.add_argument(
      f"--{name}", metavar=f"{placeholder}[,{placeholder}]", help=text
    )


def apply(
  description: folder.Description, args: argparse.Namespace
) -> folder.Description:
  """The cascade with what the flags say; values are checked later."""
  samplers = [dict(entry.sampler) for entry in description.stages]
  for name, (kind, _, _) in _FLAGS.items():
    text = getattr(args, name)
    if text is None:
      continue
    values = parse_values(f"--{name}", text, kind, description.names)
    for k, value in enumerate(values):
      alone = "," not in text
      if value is None or (name == "aug_level" and alone and k == 0):
        continue
      samplers[k][name] = value
  return folder.with_samplers(description, samplers)


def parse_values(
  flag: str, text: str, kind: _Kind, names: Sequence[str]
) -> list[int | float | str | None]:
  """One value a stage; None where nothing is said of it."""
  parts = [part.strip() for part in text.split(",")]
  if parts == [""]:
    raise errors.BadInput(f"{flag} has no value.")
  if len(parts) == 1:
    parts *= len(names)
  if len(parts) != len(names):
    raise errors.BadInput(
      f"{flag}={text} gives {len(parts)} values for {len(names)} stages"
      f" ({', '.join(names)}); give one, or one for each."
    )
  return [_value(flag, part, kind) for part in parts]


def parse_list(name: str, text: str) -> list[int | float | str]:
  """Values of one setting, separated by commas: of `--steps=4,8`, 4 and 8."""
  kind = _FLAGS[name][0]
  parts = [part.strip() for part in text.split(",")]
  if "" in parts:
    raise errors.BadInput(f"--{name}={text} has an empty value.")
  return [_value(f"--{name}", part, kind) for part in parts]


def _value(flag: str, text: str, kind: _Kind) -> int | float | str | None:
  if not text:
    return None
  if isinstance(kind, tuple):
    if text not in kind:
      near = arguments.did_you_mean(text, kind)
      raise errors.BadInput(
        f"{flag}: {text!r} is unknown{near} Use one of {', '.join(kind)}."
      )
    return text
  try:
    return kind(text)
  except ValueError:
    what = "a whole number" if kind is int else "a number"
    raise errors.BadInput(f"{flag}: {text!r} is not {what}.") from None
