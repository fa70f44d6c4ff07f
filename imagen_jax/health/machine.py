"""Is this machine fit for the run? Versions, devices, disk, memory."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Mapping, Sequence

from etils import epath

from imagen_jax.core import errors, files, tree
from imagen_jax.health import findings
from imagen_jax.train import checkpoints
from imagen_jax.train.state import TrainState

# [oldest, too new) as in setup.py.
SUPPORTED = {
  "python": ("3.11", ""),
  "jax": ("0.10", "0.13"),
  "flax": ("0.12", "0.13"),
  "optax": ("0.2.6", ""),
  "orbax-checkpoint": ("0.12", ""),
  "grain": ("0.2.15", ""),
  "numpy": ("2.0", ""),
}
# Files that show an accelerator, and what lets JAX see it.
_ACCELERATORS = {
  "/dev/nvidia0": ("an NVIDIA GPU", "cuda"),
  "/dev/accel0": ("a TPU", "tpu"),
  "/dev/vfio/0": ("a TPU", "tpu"),
}
_TIGHT = 0.7  # of the memory: activations come on top


def installed() -> dict[str, str | None]:
  """The versions of what SUPPORTED names; None where there is none."""
  found: dict[str, str | None] = {"python": platform.python_version()}
  for name in SUPPORTED.keys() - found:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return {name: found[name] for name in SUPPORTED}


def versions(found: Mapping[str, str | None]) -> findings.Finding:
  """Whether all are such as the package was tested with."""
  wrong = []
  for name, (oldest, too_new) in SUPPORTED.items():
    has = found[name]
    if has is None:
      wrong.append(f"{name} is not installed")
    elif _release(has) < _release(oldest):
      wrong.append(f"{name} {has} is older than {oldest}")
    elif too_new and _release(has) >= _release(too_new):
      wrong.append(f"{name} {has} is not older than {too_new}")
  if wrong:
    return findings.problem(
      "versions",
      "; ".join(wrong),
      'pip install --upgrade "imagen_jax", in an environment of its own',
      errors.BadInput,
    )
  shown = ", ".join(f"{name} {has}" for name, has in found.items())
  return findings.ok("versions", shown)


def _release(version: str) -> tuple[int, ...]:
  """The numbers of "0.10.2.dev1" that count."""
  return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def devices(platforms: Sequence[str], nodes: Sequence[str]) -> findings.Finding:
  """What JAX sees, against the device files that there are."""
  shown = ", ".join(
    f"{platforms.count(name)} x {name}" for name in dict.fromkeys(platforms)
  )
  if set(platforms) != {"cpu"}:
    return findings.ok("devices", shown)
  for node, (what, extra) in _ACCELERATORS.items():
    if node in nodes:
      return findings.warning(
        "devices",
        f"JAX sees the CPU alone, and here is {what} ({node})",
        f'pip install "imagen_jax[{extra}]"; and see that JAX_PLATFORMS is not'
        " cpu",
      )
  return findings.ok("devices", f"{shown}; no accelerator is here")


def nodes() -> list[str]:
  """The device files of accelerators that are here."""
  return [node for node in _ACCELERATORS if pathlib.Path(node).exists()]


def disk(
  workdir: epath.Path, abstract: TrainState, *, kept: int
) -> findings.Finding:
  """Room for `kept` checkpoints and the one that is being written."""
  if "://" in os.fspath(workdir):
    return findings.skipped("disk", f"{workdir} is not on a local disk")
  workdir = epath.Path(workdir).absolute()
  here = next(p for p in (workdir, *workdir.parents) if p.exists())
  try:
    checkpoints.check_space(here, abstract)
  except errors.BadInput as error:
    return findings.of_error("disk", error)
  size, free = tree.size_bytes(abstract), shutil.disk_usage(here).free
  said = (
    f"{files.size_text(free)} free; a checkpoint takes"
    f" {files.size_text(size)}, and up to {kept + 1} are there at a time"
  )
  if free < (kept + 1) * size:
    return findings.warning(
      "disk", said, "free space, or keep fewer: train.keep, keep_every"
    )
  return findings.ok("disk", said)


def memory(
  abstract: TrainState, *, host: int | None, device: int | None
) -> findings.Finding:
  """Whether the state, its gradients and the copy of a save have room.

  In bytes: `host` is what is free, `device` what one has; None is not known,
  for a device also that it is the host.
  """
  state = tree.size_bytes(abstract)
  step = state + tree.size_bytes(abstract.params)
  if device is None:
    needs = [("this machine", step + state, host)]
  else:
    needs = [("a device", step, device), ("this machine", state, host)]
  known = [(where, need, has) for where, need, has in needs if has is not None]
  if not known:
    return findings.skipped("memory", "how much there is, is not known")
  said = "; ".join(
    f"{where} has {files.size_text(has)} for state and gradients of"
    f" {files.size_text(need)}, activations not counted"
    for where, need, has in known
  )
  fullest = max(need / max(has, 1) for _, need, has in known)
  remedy = (
    "take a smaller network, a larger machine, or optimizer.name=adafactor;"
    " for activations lower train.batch_size or raise train.micro_batches"
  )
  if fullest > 1:
    return findings.problem("memory", said, remedy, errors.BadInput)
  if fullest > _TIGHT:
    return findings.warning("memory", said, remedy)
  return findings.ok("memory", said)
