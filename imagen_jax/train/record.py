"""`run.json`: what a run was, enough to start it again.

And what may change when it goes on.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path

import jax
import PIL.features
from absl import logging
from etils import epath

from imagen_jax.core import errors, files

_PACKAGES = (
  "jax",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "grain",
  "pillow",
)

# What a checkpoint says of its run.
_IDENTITY = ("config", "config_hash", "hashes")

# Fields, or sections, that may change when a run goes on: they decide when
# something is written or shown, not what is learned. `train.steps` may grow.
FREE = (
  "data.max_reject_fraction",
  "data.max_rejects",
  "data.store",  # the hash of its weights may not
  "data.threads",
  "log",
  "mesh",  # where, not what
  "preview",
  "profile",
  "sampler",
  "stage.fields.remat",  # how, not what
  "stage.fields.scan_blocks",
  "start.required",
  "train.allow_dtype_cast",
  "train.best_by",
  "train.checkpoint_every",
  "train.higher_is_better",
  "train.keep",
  "train.keep_best",
  "train.keep_every",
  "train.log_every",
  "train.max_rollbacks",
  "train.max_skipped",
  "train.max_skipped_in_a_row",
  "train.rollback_skip",
  "train.rollback_steps",
  "train.watchdog_minutes",
)
_MAY_GROW = "train.steps"
_ABSENT = "absent"


def config_hash(config: dict) -> str:
  """SHA-256 of a config's canonical JSON, its first 16 digits."""
  text = json.dumps(config, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_run(
  workdir: epath.Path, config: dict, hashes: dict[str, str]
) -> None:
  """Writes `run.json`; `hashes` name the data set and the encoder."""
  run = {
    "config": config,
    "config_hash": config_hash(config),
    "git": _git(),
    "versions": {"python": platform.python_version()} | _versions(),
    "devices": [str(device) for device in jax.devices()],
    "hashes": hashes,
  }
  files.write_json(workdir / "run.json", run)


def read_run(workdir: epath.Path) -> dict | None:
  """Config and fingerprints of `run.json`, as a checkpoint keeps them."""
  path = workdir / "run.json"
  if not path.exists():
    return None
  try:
    run = files.parse_json(path.read_bytes())
    return {name: run.get(name) for name in _IDENTITY}
  except (ValueError, AttributeError) as error:
    raise errors.CheckpointError(
      f"{path} is damaged ({error}); move it away: what it says also stands in"
      " the manifest of each checkpoint."
    ) from error


def check_resume(saved: dict, current: dict, allow: Collection[str]) -> None:
  """Raises BadInput if a run would go on as another run.

  Both have "config" and "hashes", as `read_run` gives them; `allow` has names
  of fields or sections that may change all the same.
  """
  before, now = _fields(saved), _fields(current)
  changes = []
  for name in sorted(before.keys() | now.keys()):
    old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
    grows = name == _MAY_GROW and _ABSENT not in (old, new) and new >= old
    if old == new or grows or _is_in(name, FREE):
      continue
    if _is_in(name, allow):
      logging.warning("%s was %r and is now %r, as allowed", name, old, new)
      continue
    changes.append(
      f"{name} was {old!r} and is now {new!r} (--allow_change={name})"
    )
  if changes:
    more = f", and {len(changes) - 8} more" if len(changes) > 8 else ""
    raise errors.BadInput(
      f"the checkpoint is of another run: {'; '.join(changes[:8])}{more}. Use"
      " its values, or another --workdir, or the flag beside each to go on with"
      " the new value."
    )


def _fields(run: dict) -> dict[str, files.Json]:
  """{"optimizer.name": "adam", "hashes.data": ...}, as JSON has the values."""
  found = {}

  def flatten(prefix: str, value: files.Json) -> None:
    if isinstance(value, dict) and value:
      for name, inner in value.items():
        flatten(f"{prefix}.{name}" if prefix else name, inner)
    else:
      found[prefix] = value

  flatten("", json.loads(json.dumps(run["config"], default=str)))
  flatten("hashes", run["hashes"])
  if not found.get("lora.rank"):  # no adapters, and older configs say nothing
    found = {n: v for n, v in found.items() if not n.startswith("lora.")}
  return found


def _is_in(name: str, sections: Collection[str]) -> bool:
  return any(name == s or name.startswith(f"{s}.") for s in sections)


def _versions() -> dict[str, str | None]:
  """Of packages, and of what decodes JPEG: pixels depend on it."""
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  turbo = PIL.features.version("libjpeg_turbo")  # None of another libjpeg
  return packages | {"libjpeg-turbo": turbo}


def _git() -> dict[str, str | bool | None]:
  """Revision and dirty flag of the source, where it is a checkout."""
  here = Path(__file__).parent

  def git(*arguments: str) -> str | None:
    command = ["git", "-C", str(here), *arguments]
    try:
      done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
      return None
    return done.stdout.strip() if done.returncode == 0 else None

  status = git("status", "--porcelain")
  dirty = None if status is None else bool(status)
  return {"revision": git("rev-parse", "HEAD"), "dirty": dirty}
