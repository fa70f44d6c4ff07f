"""`run.json`: what a run was, enough to start it again.

And `events.jsonl`: start, restore, save, stop, each with its time.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path

import jax
from etils import epath

from imagen_jax.core import errors, files

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


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


def check_same_stage(workdir: epath.Path, config: dict) -> None:
  """Raises BadInput if the run in `workdir` was of another `config.stage`.

  A checkpoint has the shapes of a network alone: a stage with another
  prediction or schedule would fit it, and train on to nonsense.
  """
  path = workdir / "run.json"
  if not path.exists():
    return
  saved = json.loads(path.read_text())["config"]["stage"]
  for name in sorted(saved.keys() & config["stage"].keys()):
    given = json.loads(json.dumps(config["stage"][name]))
    if given != saved[name]:
      raise errors.BadInput(
        f"{workdir} holds a run with stage.{name} = {saved[name]!r}, and now it"
        f" is {given!r}; use that again, or another --workdir."
      )


def event(workdir: epath.Path, kind: str, step: int, reason: str = "") -> None:
  """Appends one event, stamped with wall time."""
  entry = {"event": kind, "step": step, "time": round(time.time(), 3)}
  entry |= {"reason": reason} if reason else {}
  files.append_jsonl(workdir / "events.jsonl", entry)


def _versions() -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


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
