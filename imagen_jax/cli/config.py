"""`--config=FILE[:ARG]` and `--config.field.sub=value`, as in ml_collections.

A config is a Python file with `get_config()` or `get_config(arg)` that returns
a `ConfigDict`. Overrides keep the type that the field has; what they may say is
in `overrides.py`. The result is locked.

  parser = config.add_flag(arguments.make("train", ...))
  args, cfg = config.parse(argv, parser)
"""

import argparse
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import ml_collections

from imagen_jax.cli import arguments, overrides
from imagen_jax.core import errors


def add_flag(
  parser: arguments.Parser,
  *,
  default: str | None = None,
  required: bool = True,
) -> arguments.Parser:
  """Adds --config; it is `required` if there is no default."""
  note = f" (default: {default})" if default else ""
  parser.add_argument(
    "--config",
    metavar="FILE[:ARG]",
    default=default,
    required=required and default is None,
    help="a Python file with get_config(arg); set one of its fields with"
    f" --config.field.sub=VALUE{note}",
  )
  return parser


def parse(
  argv: Sequence[str], parser: argparse.ArgumentParser
) -> tuple[argparse.Namespace, ml_collections.ConfigDict | None]:
  """The arguments, and the locked config with its overrides.

  `args.overrides` is what was set, {"field.sub": text}. The config is None if
  the parser has no --config or its value is None.
  """
  given, rest = overrides.split(argv)
  args, unknown = parser.parse_known_args(rest)
  args.overrides = dict(given)
  spec = getattr(args, "config", None)
  if spec is None:
    if given:
      path = given[0][0]
      raise errors.BadInput(f"--config.{path} needs --config=FILE beside it.")
    arguments.check_unknown(unknown, parser)
    return args, None
  config = load(spec)
  for path, text in given:
    overrides.apply(config, path, text)
  arguments.check_unknown(unknown, parser)
  return args, config


def load(spec: str) -> ml_collections.ConfigDict:
  """The locked config of FILE or FILE:ARG."""
  name, colon, arg = spec.partition(":")
  file = find(name)
  get_config = _get_config(file)
  try:
    config = _call(get_config, file, arg if colon else None)
  except errors.ImagenError:
    raise
  except Exception as error:
    raise _broken(file, error) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.BadInput(
      f"get_config in {file} returns a {type(config).__name__}; it must return"
      " an ml_collections.ConfigDict."
    )
  return config.lock()


def find(name: str) -> pathlib.Path:
  """The file, from here or from the folder that holds the package."""
  home = pathlib.Path(__file__).parents[2]
  for file in (pathlib.Path(name), home / name):
    if file.is_file():
      return file
  known = _nearby(pathlib.Path(name).parent, home)
  near = arguments.did_you_mean(name, known)
  raise errors.BadInput(
    f"no config file {name!r}{near} Configs: {', '.join(known) or 'none here'}."
  )


def _nearby(folder: pathlib.Path, home: pathlib.Path) -> list[str]:
  """Config files as one may write them: of `folder` and of the package."""
  names = {str(path) for path in folder.glob("*.py")}
  for root in (pathlib.Path(), home):
    files = root.glob("configs/*.py")
    names |= {path.relative_to(root).as_posix() for path in files}
  return sorted(n for n in names if not n.endswith("__init__.py"))[:20]


def _get_config(
  file: pathlib.Path,
) -> Callable[..., object]:
  with _importable(file):
    try:
      module = _execute(file)
    except errors.ImagenError:
      raise
    except Exception as error:
      raise _broken(file, error) from error
  if not callable(getattr(module, "get_config", None)):
    raise errors.BadInput(
      f"{file} has no function get_config; a config file defines"
      " get_config(arg) and returns a ConfigDict from it."
    )
  return module.get_config


def _execute(file: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise errors.BadInput(f"{file} is not a Python file; a config ends in .py.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@contextmanager
def _importable(file: pathlib.Path) -> Iterator[None]:
  """Lets a config say `from configs import common`, from any folder."""
  parents = file.resolve().parents
  roots = [p.parent for p in parents if p.name == "configs"][:1]
  added = [str(root) for root in roots if str(root) not in sys.path]
  sys.path[:0] = added
  try:
    yield
  finally:
    for root in added:
      sys.path.remove(root)


def _call(
  get_config: Callable[..., object],
  file: pathlib.Path,
  arg: str | None,
) -> object:
  parameters = list(inspect.signature(get_config).parameters.values())
  with _importable(file):
    if arg is not None:
      if not parameters:
        raise errors.BadInput(
          f"{file} takes no argument, but {arg!r} was given after the colon;"
          f" use --config={file}."
        )
      return get_config(arg)
    if parameters and parameters[0].default is inspect.Parameter.empty:
      raise errors.BadInput(
        f"{file} needs its argument {parameters[0].name!r}; use"
        f" --config={file}:ARG; its first lines say which there are."
      )
    return get_config()


def _broken(file: pathlib.Path, error: Exception) -> errors.BadInput:
  """A config file is the user's own: what failed in it, and in which line."""
  if type(error) is ValueError:  # written to be read, by get_config
    return errors.BadInput(f"{file}: {error}")
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(file)
  ]
  line = error.lineno if isinstance(error, SyntaxError) else None
  where = f" line {line or lines[-1]}" if line or lines else ""
  return errors.BadInput(
    f"cannot load the config {file}:{where} {type(error).__name__}: {error}"
  )
