"""`imagen`: what it says, and the exit code of everything that can happen."""

import importlib.util
import pathlib
import subprocess
import sys
import time
import types

import pytest

from imagen_jax.cli import main
from imagen_jax.core import errors

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
  """A command `probe` that does what the test gives it to do."""
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
  module = types.ModuleType("probe_command")
  monkeypatch.setitem(sys.modules, "probe_command", module)
  command = main.Command("probe_command", "probes", "imagen probe")
  monkeypatch.setitem(main.COMMANDS, "probe", command)

  def install(action):
    module.run = action

  return install


def _raise(error: BaseException):
  def action(argv: list[str]):
    raise error

  return action


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_teaches(argv: list[str], capsys: pytest.CaptureFixture):
  assert main.main(argv) == 0
  out = capsys.readouterr().out
  first, *_ = out.splitlines()
  assert first.endswith(".")
  for name, command in main.COMMANDS.items():
    assert name in out and command.summary in out and command.example in out
  assert "three worked examples" in out
  assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_listed_command_is_there_and_shows_examples(
  name: str, capsys: pytest.CaptureFixture
):
  command = main.COMMANDS[name]
  assert importlib.util.find_spec(command.module) is not None
  assert command.example.startswith(f"imagen {name} ")
  assert main.main([name, "--help"]) == 0
  by_flag = capsys.readouterr().out
  assert f"usage: imagen {name}" in by_flag and "examples:" in by_flag
  assert main.main(["help", name]) == 0
  assert capsys.readouterr().out == by_flag


def test_help_takes_less_than_half_a_second():
  def seconds() -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "imagen_jax", "--help"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start

  assert min(seconds() for _ in range(3)) < 0.5


def test_help_imports_nothing_heavy():
  code = (
    "import sys; from imagen_jax.cli import main; main.main(['--help'])\n"
    "sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'absl')))"
  )
  command = [sys.executable, "-c", code]
  assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_version(capsys: pytest.CaptureFixture):
  assert main.main(["--version"]) == 0
  assert capsys.readouterr().out.startswith("imagen 0.")


def test_unknown_command_names_near_misses(capsys: pytest.CaptureFixture):
  assert main.main(["trian"]) == 2
  err = capsys.readouterr().err
  assert "unknown command 'trian'; did you mean 'train'?" in err
  assert len(err.splitlines()) == 1


def test_the_command_gets_its_arguments(probe):
  seen = []
  probe(seen.append)
  assert main.main(["probe", "--a", "b"]) == 0
  assert seen == [["--a", "b"]]


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (errors.BadInput("no such thing"), 2),
    (errors.NonFinite("no such thing"), 3),
    (errors.DataError("no such thing"), 4),
    (errors.CheckpointError("no such thing"), 5),
    (errors.StopRequested("no such thing"), 42),
  ],
)
def test_our_errors_are_one_line_and_their_exit_code(
  error: Exception, code: int, probe, capsys: pytest.CaptureFixture
):
  probe(_raise(error))
  assert main.main(["probe"]) == code
  assert capsys.readouterr().err == "imagen probe: no such thing\n"


def test_a_message_of_two_lines_becomes_one(
  probe, capsys: pytest.CaptureFixture
):
  probe(_raise(errors.BadInput("given a\n  expected b")))
  main.main(["probe"])
  assert capsys.readouterr().err == "imagen probe: given a expected b\n"


def test_an_interrupt_is_calm(probe, capsys: pytest.CaptureFixture):
  probe(_raise(KeyboardInterrupt()))
  assert main.main(["probe"]) == 130
  assert capsys.readouterr().err == "imagen probe: interrupted.\n"


def test_a_bug_shows_where_it_is(probe, capsys: pytest.CaptureFixture):
  probe(_raise(KeyError("lost")))
  assert main.main(["probe"]) == 1
  err = capsys.readouterr().err
  assert "Traceback" in err and "KeyError: 'lost'" in err


@pytest.mark.parametrize(
  ("given", "code"), [(0, 0), (None, 0), (7, 7), (255, 1), (-1, 1), ("no", 1)]
)
def test_exit_codes_are_never_255(given: int | str | None, code: int, probe):
  probe(_raise(SystemExit(given)))
  assert main.main(["probe"]) == code


def test_compiled_programs_are_kept_in_the_users_cache(
  probe, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
  environment: dict[str, str] = {"XDG_CACHE_HOME": str(tmp_path)}
  monkeypatch.setattr(main.os, "environ", environment)
  probe(lambda argv: None)
  assert main.main(["probe"]) == 0
  folder = pathlib.Path(environment["JAX_COMPILATION_CACHE_DIR"])
  assert folder.is_dir() and tmp_path in folder.parents


def test_programs_for_chips_that_are_not_there_are_not_kept(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
  environment: dict[str, str] = {"XDG_CACHE_HOME": str(tmp_path)}
  monkeypatch.setattr(main.os, "environ", environment)
  assert main.main(["plan", "--topology=v5e:2x2"]) == 2
  assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_a_chosen_or_an_unwritable_cache_is_respected(
  probe, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
  probe(lambda argv: None)
  chosen = {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
  monkeypatch.setattr(main.os, "environ", chosen)
  assert main.main(["probe"]) == 0
  assert chosen == {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}

  (tmp_path / "file").write_text("in the way")
  blocked = {"XDG_CACHE_HOME": str(tmp_path / "file")}
  monkeypatch.setattr(main.os, "environ", blocked)
  assert main.main(["probe"]) == 0
  assert "JAX_COMPILATION_CACHE_DIR" not in blocked


def test_only_our_own_information_is_logged(
  probe, capsys: pytest.CaptureFixture
):
  from absl import logging

  def chatter(argv: list[str]):
    logger = logging.get_absl_logger()
    for path, level, text in [
      (main.__file__, logging.INFO, "ours"),
      ("site-packages/orbax/checkpoint.py", logging.INFO, "theirs"),
      ("site-packages/orbax/checkpoint.py", logging.WARNING, "warned"),
    ]:
      number = logging.converter.absl_to_standard(level)
      logger.handle(logger.makeRecord("a", number, path, 1, text, (), None))

  probe(chatter)
  previous = logging.get_verbosity(), logging.get_absl_logger().handlers
  try:
    assert main.main(["probe"]) == 0
    err = capsys.readouterr().err
  finally:
    logging.set_verbosity(previous[0])
    logging.get_absl_logger().handlers = previous[1]
    logging.get_absl_logger().propagate = True
  assert "ours" in err and "warned" in err and "theirs" not in err
