"""The record of an edit in an image, and the same edit from it.

`edit_flags.Asked.record` is what is written: numbers, and the SHA-256 of each
file. So the files have to be given again.
"""

import argparse

from imagen_jax.cascade import edits
from imagen_jax.cli import edit_flags
from imagen_jax.core import errors, files

_FILES = ("init_image", "mask", "upscale")
_LISTS = {"strength": float, "outpaint": int}
_NUMBERS = ("resample", "tile")


def check(record: dict) -> None:
  """Raises TypeError for what `edit_flags` does not write."""
  for key, value in record.items():
    if key in _FILES:
      fits = isinstance(value, str)
    elif key in _LISTS:
      kinds = (int, _LISTS[key])
      fits = isinstance(value, list)
      fits = fits and all(isinstance(each, kinds) for each in value)
    else:
      fits = key in _NUMBERS and isinstance(value, int)
    if not fits:
      raise TypeError(f"edit.{key} is {str(value)[:40]}")


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the files that `asked` wants."""
  group = parser.add_argument_group("what it was made from, if it was")
  for name in _FILES:
    group.add_argument(
      f"--{name}", metavar="FILE", help=f"the file that was --{name}"
    )


def asked(
  record: dict, args: argparse.Namespace, name: str, stages: edits.Stages
) -> edit_flags.Asked:
  """The edit of a record that is checked; `name` is the image's.

  Raises BadInput for a file that is missing, or not the one of then.
  """
  flags = dict.fromkeys((*edit_flags.FLAGS, "tile"))
  for file in _FILES:
    flags[file] = given = getattr(args, file)
    digest = record.get(file)
    if digest is None and given is not None:
      raise errors.BadInput(f"{name} was made without --{file}; leave it out.")
    if digest is not None and given is None:
      raise errors.BadInput(
        f"{name} was made from a file of sha256 {digest[:12]}...; give it:"
        f" --{file}=FILE."
      )
    if given is not None and _digest(file, given) != digest:
      raise errors.BadInput(
        f"--{file}={given} is not the file that {name} was made from, whose"
        f" sha256 is {digest[:12]}..."
      )
  for key in _LISTS:
    if key in record:
      flags[key] = ",".join(map(str, record[key]))
  flags |= {key: record.get(key) for key in _NUMBERS}
  return edit_flags.ask(argparse.Namespace(**flags), stages)


def _digest(flag: str, path: str) -> str:
  try:
    return files.sha256_file(path)
  except OSError as error:
    raise errors.BadInput(
      f"cannot read --{flag}={path} ({error.strerror}); give the file that the"
      " image was made from."
    ) from error
