"""`imagen data stats` and `imagen data verify`: what is in a set, and is it."""

import os
from collections.abc import Sequence

from imagen_jax import version
from imagen_jax.cli import arguments, data_report
from imagen_jax.core import errors, images
from imagen_jax.data import check_images, examples, statistics

_STATS = "Reads a set once and says what is in it."
_STATS_EXAMPLES = (
  "imagen data stats sets/pictures",
  "imagen data stats sets/pictures --shown=100 --sheet=pictures.png",
)

_VERIFY = """\
Compares every shard and every record with its digest, and names what differs.
Exit code 0 if all is well, 4 if not."""
_VERIFY_EXAMPLES = (
  "imagen data verify sets/pictures",
  "imagen data verify sets/pictures --decode",
)

_MOST_NAMED = 20  # complaints that are printed


def stats(argv: Sequence[str]) -> None:
  """Prints the statistics of a set and writes its contact sheet."""
  args = arguments.parse(argv, _stats_parser())
  source = examples.open_set(args.folder)
  with data_report.Bar(len(source)) as bar:
    found = statistics.survey(
      source,
      sample=args.sample,
      shown=args.shown,
      seed=args.seed,
      progress=bar.at,
    )
  _print_survey(found, source.fingerprint)
  sheet = args.sheet
  if sheet is None:
    sheet = os.path.join(args.folder, "contact_sheet.png")
  if sheet and found.sheet is not None:
    _write_sheet(sheet, found)


def _stats_parser() -> arguments.Parser:
  parser = arguments.make("data stats", _STATS, examples=_STATS_EXAMPLES)
  add = parser.add_argument
  add("folder", metavar="FOLDER", help="a set")
  add(
    "--sheet", metavar="FILE",
    help="of the contact sheet; default FOLDER/contact_sheet.png, '' for none",
  )  # fmt: skip
  for name, default, text in (
    ("sample", 1000, "images, by chance, that are decoded for colours"),
    ("shown", 24, "images, by chance, on the contact sheet"),
  ):
    add(
      f"--{name}", type=data_report.positive, default=default, metavar="N",
      help=f"{text}; default {default}",
    )  # fmt: skip
  add("--seed", type=int, default=0, metavar="N", help="of the choice")
  return parser


def _write_sheet(path: str, found: statistics.Survey) -> None:
  try:
    images.write_png(
      path, found.sheet, {"Software": f"imagen_jax {version.VERSION}"}
    )
  except OSError as error:
    raise errors.BadInput(
      f"cannot write {path!r} ({error.strerror}); give another --sheet."
    ) from error
  print(f"sheet       {path}")


def _print_survey(found: statistics.Survey, fingerprint: str) -> None:
  print(f"set         {fingerprint[:12]}...")
  data_report.print_tally(found.tally)
  same = "; ".join(f"{key} is {first}" for key, first in found.same_images[:3])
  mean, deviation = (
    ", ".join(f"{x:.1f}" for x in values)
    for values in (found.colour_mean, found.colour_deviation)
  )
  print(
    f"duplicates  {len(found.same_images):,} images"
    + (f" ({same}{', ...' if len(found.same_images) > 3 else ''})" * bool(same))
    + f", {found.same_captions:,} captions\n"
    f"colours     mean {mean}; deviation {deviation} (red, green, blue of"
    f" 0..255; {found.sampled:,} images)"
  )


def verify(argv: Sequence[str]) -> None:
  """Prints all that is wrong with a set; DataError if anything is."""
  parser = arguments.make("data verify", _VERIFY, examples=_VERIFY_EXAMPLES)
  add = parser.add_argument
  add("folder", metavar="FOLDER", help="a set")
  add("--decode", action="store_true", help="decode every image, too")
  args = arguments.parse(argv, parser)
  source = examples.open_as_is(args.folder)
  count = 0
  with data_report.Bar(len(source)) as bar:
    for complaint in check_images.complaints(
      args.folder, source, decoded=args.decode, progress=bar.at
    ):
      count += 1
      if count <= _MOST_NAMED:
        print(complaint, flush=True)
  if count > _MOST_NAMED:
    print(f"... and {count - _MOST_NAMED:,} more")
  if count:
    raise errors.DataError(
      f"{args.folder}: {count:,} faults in a set of {len(source):,} examples;"
      " build it or copy it again."
    )
  shards = len(source.manifest.shards)
  print(
    f"{args.folder}: {len(source):,} examples in {shards:,} shard(s) are as"
    f" they were written{', and all decode' if args.decode else ''}"
    f" ({source.fingerprint[:12]}...)"
  )
