"""One argparse for all commands: examples in the help, errors as one line.

A command builds its parser with `make` and reads its arguments with `parse` (or
with `config.parse`, if it takes a config). Both raise `errors.BadInput`, which
`main` prints as one line.
"""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from imagen_jax.core import errors


class Parser(argparse.ArgumentParser):
  """An ArgumentParser that raises BadInput and never guesses a prefix."""

  def error(self, message: str) -> NoReturn:
    raise errors.BadInput(f"{message}; see `{self.prog} --help`.")


def make(command: str, summary: str, *, examples: Sequence[str]) -> Parser:
  """The parser of `imagen COMMAND`, with `examples` below its options."""
  lines = "\n".join(f"  {example}" for example in examples)
  return Parser(
    prog=f"imagen {command}",
    description=summary,
    epilog=f"examples:\n{lines}" if lines else None,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def parse(
  argv: Sequence[str], parser: argparse.ArgumentParser
) -> argparse.Namespace:
  """The arguments; an unknown one is an error that names near misses."""
  args, unknown = parser.parse_known_args(list(argv))
  check_unknown(unknown, parser)
  return args


def check_unknown(
  unknown: Sequence[str], parser: argparse.ArgumentParser
) -> None:
  """Raises BadInput for the first argument that the parser did not take."""
  if not unknown:
    return
  given = unknown[0].partition("=")[0]
  if not given.startswith("-"):
    raise errors.BadInput(
      f"unexpected argument {given!r}; options start with --, and a value with"
      f" spaces needs quotes; see `{parser.prog} --help`."
    )
  options = [
    option
    for action in parser._actions
    for option in action.option_strings
    if option.startswith("--")
  ]
  raise errors.BadInput(
    f"unknown option {given!r}{did_you_mean(given, options)}"
    f" Options: {', '.join(sorted(options))}."
  )


def did_you_mean(given: str, names: Iterable[str]) -> str:
  """The nearest of `names` as a question that goes on a sentence, or ".".

  did_you_mean("trian", ["train", "sample"]) is "; did you mean 'train'?".
  """
  near = difflib.get_close_matches(given, list(names), n=3, cutoff=0.6)
  if not near:
    return "."
  return f"; did you mean {' or '.join(repr(name) for name in near)}?"
