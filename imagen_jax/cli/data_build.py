"""`imagen data build`: images and captions to shards for training."""

import argparse
from collections.abc import Sequence

from imagen_jax.cli import arguments, data_report
from imagen_jax.core import errors
from imagen_jax.data import build_images, decode, image_filter, image_sources

_SUMMARY = """\
Reads images and captions and writes shards, their manifest, and skipped.jsonl,
which names each image that cannot be used and says why. Nothing in a set
depends on when, where or with how many workers it was made. The set appears
at the end, whole; after a kill the same line starts anew.

images    a folder (captions in a.txt or a.json beside a.jpg, or in a table);
          WebDataset "shards/*.tar" or "shards/{00000..00099}.tar";
          Hugging Face "data/*.parquet"; tfds:NAME[/CONFIG][:SPLIT];
          seqio:TASK_OR_MIXTURE[:SPLIT]
formats   JPEG, PNG and WebP; files are kept byte for byte without --resize"""

_EXAMPLES = (
  "imagen data build --images=pictures --out=sets/pictures",
  "imagen data build --images=pictures --captions=captions.csv \\",
  "  --resize=256 --out=sets/pictures",
  'imagen data build --images="laion/*.tar" --max_bad=0.01 --dedup \\',
  "  --out=sets/laion --dry_run",
  "imagen data build --images=tfds:coco_captions:train --out=sets/coco",
  "imagen data build --images=seqio:my_task --module=my_package.tasks \\",
  "  --out=sets/mine",
)

_TEXTS = {
  "out": ("FOLDER", "where the set is to be"),
  "captions": (
    "FILE",
    "a table (.csv, .tsv, .jsonl, .parquet) for a folder of images, with a"
    " column file_name",
  ),
  "field": ("NAME", "of the caption; by default it is found"),
  "image_field": ("NAME", "of the image; by default it is found"),
  "data_dir": ("FOLDER", "where tfds finds its datasets"),
  "module": ("NAME", "imported first: registers seqio tasks"),
  "name": ("NAME", "of the set; by default that of its source"),
}
_NUMBERS = {
  "min_size": (64, "leave out images with a shorter side below N pixels"),
  "max_pixels": (decode.MAX_PIXELS, "refuse larger ones before decoding"),
  "resize": (None, "make the shorter side N pixels; never larger"),
  "shard_size": (1024, "examples in a shard"),
  "workers": (2, "threads that decode"),
}


def run(argv: Sequence[str]) -> None:
  """Parses the flags, and builds or only says what would be built."""
  args = arguments.parse(argv, _parser())
  settings = _settings(args)
  source = image_sources.open_images(
    args.images,
    captions=args.captions,
    field=args.field,
    image_field=args.image_field,
    data_dir=args.data_dir,
    module=args.module,
  )
  with data_report.Bar() as bar:
    if args.dry_run:
      report = build_images.dry_run(
        source, settings, workers=args.workers, watch=bar.build
      )
    else:
      report = build_images.build(
        source,
        args.out,
        settings,
        name=args.name,
        shard_size=args.shard_size,
        max_bad=args.max_bad,
        workers=args.workers,
        watch=bar.build,
      )
  _print_report(report, args)


def _parser() -> arguments.Parser:
  parser = arguments.make("data build", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--images", required=True, metavar="WHERE", help="see above")
  for name, (metavar, text) in _TEXTS.items():
    add(f"--{name}", metavar=metavar, help=text)
  for name, (default, text) in _NUMBERS.items():
    told = f"{text}; default {default:,}" if default else text
    add(
      f"--{name}", type=data_report.positive, default=default, metavar="N",
      help=told,
    )  # fmt: skip
  add(
    "--max_bad", type=data_report.share, default=0.001, metavar="SHARE",
    help="of bad records; above it the build ends with exit code 4;"
    " default 0.001",
  )  # fmt: skip
  add(
    "--dedup", action="store_true",
    help="leave out files that are the same, to the byte, as one before",
  )  # fmt: skip
  add(
    "--dry_run", action="store_true",
    help="read and judge everything, say what a build would do, write nothing",
  )  # fmt: skip
  return parser


def _settings(args: argparse.Namespace) -> image_filter.Settings:
  if args.out is None and not args.dry_run:
    raise errors.BadInput(
      "--out is missing; give a folder for the set, or --dry_run."
    )
  if args.max_pixels > decode.MAX_PIXELS and args.resize is None:
    raise errors.BadInput(
      f"--max_pixels={args.max_pixels} needs --resize: in training no image of"
      f" more than {decode.MAX_PIXELS} pixels is decoded."
    )
  return image_filter.Settings(
    min_size=args.min_size,
    max_pixels=args.max_pixels,
    resize=args.resize,
    dedup=args.dedup,
  )


def _print_report(
  report: build_images.Report, args: argparse.Namespace
) -> None:
  skipped = ", ".join(f"{n:,} {why}" for why, n in report.skipped.most_common())
  shards = -(-report.tally.images // args.shard_size)
  print(
    f"records     {report.seen:,}, of which {report.tally.images:,} kept,"
    f" {sum(report.skipped.values()):,} skipped"
    + (f" ({skipped})" if skipped else "")
  )
  data_report.print_tally(report.tally)
  if args.dry_run:
    print(f"would be    {shards:,} shard(s); nothing is written")
    if report.bad > args.max_bad * report.seen:
      print(
        f"            but {report.bad / report.seen:.2%} are bad, above"
        f" --max_bad={args.max_bad:g}: a build would stop"
      )
  else:
    print(f"written     {shards:,} shard(s) in {args.out}")
