"""A folder to be hostile in; what leaves it, or runs, fails the test."""

import dataclasses
import os
import pathlib

import pytest

from tests.hostile import files as hostile


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """A folder of folders; nothing but those in `folders` may appear in it."""

  root: pathlib.Path
  folders: list[str] = dataclasses.field(default_factory=list)

  @property
  def marker(self) -> pathlib.Path:
    return self.root / "marker"

  @property
  def outside(self) -> pathlib.Path:
    return self.root / "outside"

  def folder(self) -> pathlib.Path:
    """A new one."""
    self.folders.append(f"{len(self.folders)}")
    (self.root / self.folders[-1]).mkdir()
    return self.root / self.folders[-1]

  def corpus(self) -> dict[str, bytes]:
    return hostile.corpus(self.marker, self.outside)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
  """Where `gs`, Pillow's help with PostScript, is a program of the attacker."""
  made = Sandbox(tmp_path)
  for name in ("bin", "outside", "here"):
    (tmp_path / name).mkdir()
  ghostscript = tmp_path / "bin" / "gs"
  ghostscript.write_text(f"#!/bin/sh\necho > '{made.marker}'\n")
  ghostscript.chmod(0o755)
  monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
  monkeypatch.chdir(tmp_path / "here")
  yield made
  assert not made.marker.exists(), "code was run"
  there = {path.name for path in tmp_path.iterdir()}
  assert there <= {"bin", "outside", "here", "sets", *made.folders}
  assert not os.listdir(made.outside) and not os.listdir(tmp_path / "here")
