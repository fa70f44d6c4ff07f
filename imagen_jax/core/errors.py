"""Errors that carry the exit code of the command line.

A `BadInput` is the caller's mistake and says, in one line, what was given, what
was expected and what to do. Anything that is not an `ImagenError` is a bug.
"""


class ImagenError(Exception):
  """Base of all errors that a user should read as one line."""

  exit_code = 1


class BadInput(ImagenError, ValueError):
  """Bad arguments, config or paths."""

  exit_code = 2


class NonFinite(ImagenError):
  """A loss, gradient or image is not finite, or training diverged."""

  exit_code = 3


class DataError(ImagenError):
  """Training data is damaged or not what its manifest says."""

  exit_code = 4


class CheckpointError(ImagenError):
  """A checkpoint or weights file is damaged, or could not be saved."""

  exit_code = 5


class StopRequested(ImagenError):
  """Stopped on request with a checkpoint committed: start me again."""

  exit_code = 42
