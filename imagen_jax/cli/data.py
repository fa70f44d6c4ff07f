"""`imagen data VERB`: sets of captioned images, made and checked."""

from collections.abc import Sequence

from imagen_jax.cli import arguments, data_build, data_checks
from imagen_jax.core import errors

_SUMMARY = """\
Makes a set of captioned images for training, and says what is in one.

  build    images and captions to shards and a manifest
  stats    counts, sizes, captions, duplicates, colours; a contact sheet
  verify   reads every byte and every record, and says what is wrong"""

_EXAMPLES = (
  "imagen data build --images=pictures --out=sets/pictures",
  "imagen data stats sets/pictures",
  "imagen data verify sets/pictures",
  "imagen data build --help",
)

VERBS = {
  "build": data_build.run,
  "stats": data_checks.stats,
  "verify": data_checks.verify,
}


def run(argv: Sequence[str]) -> None:
  """Finds the verb and runs it."""
  verb = argv[0] if argv else "--help"
  if verb in VERBS:
    VERBS[verb](argv[1:])
    return
  if verb in ("-h", "--help"):
    print(arguments.make("data", _SUMMARY, examples=_EXAMPLES).format_help())
    return
  raise errors.BadInput(
    f"unknown verb {verb!r}{arguments.did_you_mean(verb, VERBS)} Verbs:"
    f" {', '.join(VERBS)}. See `imagen data --help`."
  )
