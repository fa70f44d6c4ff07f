"""The Python and the commands in the documents are as they say."""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest

from imagen_jax.cli import embed, import_weights, main

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "t5"
DOCUMENTS = [
  "README.md",
  *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def blocks(document: str, language: str) -> list[str]:
  text = (ROOT / document).read_text(encoding="utf-8")
  return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def encoder_folder(tmp_path, monkeypatch):
  """encoders/t5_xxl, here the tiny golden T5, in the working folder."""
  folder = tmp_path / "encoders" / "t5_xxl"
  shutil.copytree(GOLDEN / "text_encoder", folder)
  shutil.copy(GOLDEN / "tokenizer" / "spiece.model", folder)
  monkeypatch.chdir(tmp_path)
  return folder


@pytest.mark.parametrize("document", ["README.md", "docs/text_encoders.md"])
def test_t5_alone_runs_as_written(document, encoder_folder):
  (block,) = [b for b in blocks(document, "python") if "encoders.load" in b]
  assert len([line for line in block.splitlines() if line.strip()]) <= 12
  names: dict = {}
  exec(block, names)
  assert names["text_emb"].shape[1:] == (128, 48)
  assert names["text_mask"].any(axis=1).all()
  if "states" in names:
    np.testing.assert_allclose(
      names["states"], names["text_emb"], atol=5e-6, rtol=0
    )


def commands(document: str) -> list[list[str]]:
  """The `imagen` lines of the shell blocks, and those between backquotes."""
  text = (ROOT / document).read_text(encoding="utf-8")
  shell = "\n".join(blocks(document, "bash")).replace("\\\n", " ")
  lines = [line for line in shell.splitlines() if line.startswith("imagen ")]
  lines += re.findall(r"`(imagen [a-z]+ [^`]+)`", text)
  return [shlex.split(line.split("   #")[0])[1:] for line in lines]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_their_options_exist(document):
  """Each option is one that the command's own help names."""
  parsers = {"embed": embed._parser(), "import": import_weights._parser()}
  for name, *options in commands(document):
    assert name in main.COMMANDS, name
    if name not in parsers:
      continue
    known = parsers[name].format_help()
    for option in options:
      flag = option.partition("=")[0]
      if flag.startswith("--") and not flag.startswith("--config."):
        assert f"{flag} " in known or f"{flag}]" in known, (name, flag)
