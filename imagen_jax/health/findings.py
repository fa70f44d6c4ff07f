"""What a check of a run says: that all is well, or what to do."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from imagen_jax.core import errors

Level: TypeAlias = Literal["ok", "skipped", "warning", "problem"]


class Finding(NamedTuple):
  """One line of a doctor's letter. Only a problem has an `error`."""

  check: str
  level: Level
  said: str
  remedy: str = ""
  error: type[errors.ImagenError] | None = None  # has the exit code


def ok(check: str, said: str) -> Finding:
  """All is well."""
  return Finding(check, "ok", said)


def skipped(check: str, why: str) -> Finding:
  """Nothing is known."""
  return Finding(check, "skipped", why)


def warning(check: str, said: str, remedy: str) -> Finding:
  """It may be meant so."""
  return Finding(check, "warning", said, remedy)


def problem(
  check: str, said: str, remedy: str, error: type[errors.ImagenError]
) -> Finding:
  """It cannot be meant so; `error` is the kind it would end a run with."""
  return Finding(check, "problem", said, remedy, error)


def of_error(check: str, error: errors.ImagenError) -> Finding:
  """What was raised, which says itself what to do."""
  return Finding(check, "problem", str(error), "", type(error))


def worst(found: Iterable[Finding]) -> type[errors.ImagenError] | None:
  """The kind of the worst problem, or None.

  By exit code: what is lost on disk (5, 4) is worse than what has to be
  trained again (3), and that is worse than what a flag cures (2).
  """
  kinds = [finding.error for finding in found if finding.error is not None]
  return max(kinds, key=lambda kind: kind.exit_code, default=None)
