"""--dry_run calls nothing, and prints what golden/ holds for each line of docs.

After a change that is meant: `python -m tests.launch.dry_run_test`, and read
what became of the files.
"""

import pathlib
import re
import shlex
import tempfile

import pytest

from tests.launch.launcher import FLAGS, ROOT, Launcher

GOLDEN = pathlib.Path(__file__).parent / "golden"


def documented() -> dict[str, list[str]]:
  """The lines of docs/tpu.md that call tpu_train.sh, by a name for each."""
  text = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
  shell = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
  found = {}
  for line in shell.replace("\\\n", " ").splitlines():
    if line.startswith("launch/tpu_train.sh"):
      words = shlex.split(line.split("   #")[0])[1:]
      flags = words[: words.index("--")] if "--" in words else words
      names = [f[2:].split("=")[0] for f in flags if f[:5] != "--run"]
      found["_".join(names)[:60]] = words
  return found


def printed(launcher: Launcher, words: list[str]) -> str:
  """What the line prints with --dry_run."""
  at = words.index("--") if "--" in words else len(words)
  process = launcher.start("--dry_run", *words[:at], *words[at:])
  output, errors = process.communicate(timeout=30)
  assert process.returncode == 0, errors
  names = {
    launcher.repository: "REPOSITORY",
    str(launcher.logs).replace(" ", "\\ "): "LOGS",
    launcher.logs: "LOGS",
  }
  for path, name in names.items():
    output = output.replace(str(path), name)
  return output


@pytest.fixture
def launcher(tmp_path: pathlib.Path) -> Launcher:
  return Launcher(tmp_path)


@pytest.mark.parametrize("name", documented())
def test_prints_what_it_printed(launcher: Launcher, name: str):
  expected = (GOLDEN / f"{name}.txt").read_text()
  assert printed(launcher, documented()[name]) == expected
  assert not launcher.calls() and not launcher.logs.exists()


def test_each_golden_has_its_line():
  assert {p.stem for p in GOLDEN.glob("*.txt")} == set(documented())
  assert len(documented()) >= 5


def check_lines_can_be_pasted(launcher: Launcher):
  """Each printed command is one that a shell reads as it was meant."""
  output = printed(launcher, [*FLAGS, "--", "--config=it's; $(id) x"])
  lines = [line for line in output.splitlines() if line.startswith("gcloud")]
  assert len(lines) == 9
  for line in lines:
    words = shlex.split(line)
    assert words[:3] == ["gcloud", "compute", "tpus"]
    assert words[-1] == "--zone=us-central2-b"
    if words[4] == "ssh":
      assert words[-2].startswith("--command=bash imagen-base/worker.sh ")


def test_lines_can_be_pasted(launcher: Launcher):
  check_lines_can_be_pasted(launcher)


def _write_goldens() -> None:
  GOLDEN.mkdir(exist_ok=True)
  for old in GOLDEN.glob("*.txt"):
    old.unlink()
  for name, words in documented().items():
    with tempfile.TemporaryDirectory() as folder:
      text = printed(Launcher(pathlib.Path(folder)), words)
    (GOLDEN / f"{name}.txt").write_text(text)


if __name__ == "__main__":
  _write_goldens()
