"""What the verbs of `imagen evaluate` share that read images by a network."""

import argparse
import os

import tqdm

from imagen_jax.cli import arguments, data_report
from imagen_jax.evals import bootstrap, features, image_streams


def add_flags(parser: arguments.Parser, *, draws: int) -> None:
  """The flags of reading and of intervals."""
  add = parser.add_argument
  add("--out", required=True, metavar="FOLDER", help="made if it is not there")
  add("--cache", metavar="FOLDER", help="of features; default OUT/features")
  add(
    "--skip_damaged", action="store_true",
    help="leave out images that cannot be read; by default they are an error",
  )  # fmt: skip
  for name, default, text in (
    ("batch_size", 64, "images at a time; memory and speed only"),
    ("draws", draws, "of the bootstrap, at least 2"),
  ):
    add(
      f"--{name}", type=data_report.positive, default=default, metavar="N",
      help=f"{text} (default {default})",
    )  # fmt: skip
  add("--seed", type=int, default=0, metavar="N", help="of all that is drawn")


def run(
  what: str,
  stream: image_streams.Stream,
  network: features.Network,
  args: argparse.Namespace,
) -> features.Features:
  """The features of a set, with a bar."""
  with tqdm.tqdm(
    total=stream.count, desc=what, unit=" images", mininterval=0.5
  ) as bar:
    return features.run(
      stream.read(),
      network,
      cache=args.cache or os.path.join(args.out, "features"),
      batch_size=args.batch_size,
      skip_damaged=args.skip_damaged,
      progress=lambda done: bar.update(done - bar.n),
    )


def text(score: bootstrap.Interval) -> str:
  """A number with its interval, for the terminal."""
  return f"{score.value:.5g}  [{score.low:.5g}, {score.high:.5g}]"
