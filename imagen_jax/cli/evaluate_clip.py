"""`imagen evaluate clip`: do images show what their captions say?"""

import argparse
import json
from collections.abc import Sequence

import numpy as np

from imagen_jax import version
from imagen_jax.cli import arguments, data_report, evaluate_features
from imagen_jax.core import errors, files
from imagen_jax.data import emoji
from imagen_jax.evals import (
  bootstrap,
  captioned_images,
  clip_features,
  clip_score,
  features,
  html_report,
  image_streams,
  retrieval,
)

_SUMMARY = """\
Measures images against their captions. With --judge=FOLDER, a whole CLIP as
Hugging Face lays it out (openai/clip-vit-large-patch14 is the usual one): raw
cosine, 100 max(0, cosine), and R-precision among --candidates captions. With
--judge=emoji, where captions are those of the shipped set and there is no CLIP:
whether the nearest picture of the set is the prompted object and colour.

IMAGES is a folder of `imagen sample` or `imagen evaluate drawbench`, whose
files name their prompts; a folder with captions beside the images or in a table
(--captions); .tar or .parquet files. OUT gets clip.json, clip.jsonl (a line an
image) and clip.html."""

_EXAMPLES = (
  "imagen evaluate clip --images=samples --out=clip",
  "imagen evaluate clip --images=samples --judge=clip-vit-large-patch14 \\",
  "  --out=clip",
  "imagen evaluate clip --images=photos --captions=photos.csv \\",
  "  --judge=clip-vit-large-patch14 --candidates=30 --out=clip",
)

_EMOJI = "emoji"


def main(argv: Sequence[str]) -> None:
  """Checks everything, then reads, measures and reports."""
  args = arguments.parse(argv, _parser())
  if args.draws < 2 or args.candidates < 2:
    raise errors.BadInput("--draws and --candidates are at least 2.")
  images = captioned_images.open_images(args.images, args.captions)
  out = files.check_writable(args.out)
  if args.judge == _EMOJI:
    network = retrieval.network()
    found = evaluate_features.run("images", images.stream, network, args)
    captions = [images.captions[key] for key in found.keys]
    rows = retrieval.flags(emoji.open_emoji(), found.rows["small"], captions)
  else:
    judge = clip_features.load(args.judge)
    found = evaluate_features.run("images", images.stream, judge.network, args)
    captions = [images.captions[key] for key in found.keys]
    texts = clip_features.embed_texts(judge, captions)
    rows = clip_score.rows(
      found.rows["embedding"], texts, captions,
      candidates=args.candidates, seed=args.seed,
    )  # fmt: skip
  scores = {
    name: bootstrap.interval(
      lambda some: float(some.mean()),
      [values],
      draws=args.draws,
      seed=args.seed,
    )
    for name, values in rows.items()
  }
  _report(args, scores, rows, captions, found, images.stream, out)


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate clip", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--images", required=True, metavar="WHERE", help="images with captions")
  add("--captions", metavar="FILE", help="a table that names files and texts")
  add(
    "--judge", default=_EMOJI, metavar="FOLDER",
    help="of a whole CLIP, or `emoji` (the default)",
  )  # fmt: skip
  add(
    "--candidates", type=data_report.positive, default=100, metavar="N",
    help="captions that an image chooses from, its own with them (default 100)",
  )  # fmt: skip
  evaluate_features.add_flags(parser, draws=100)
  return parser


def _report(
  args: argparse.Namespace,
  scores: dict[str, bootstrap.Interval],
  rows: dict[str, np.ndarray],
  captions: Sequence[str],
  found: features.Features,
  stream: image_streams.Stream,
  out: files.PathLike,
) -> None:
  """clip.json, clip.jsonl, clip.html, and a table on the terminal."""
  lines = [
    {"image": key, "caption": caption}
    | {name: float(values[i]) for name, values in rows.items()}
    for i, (key, caption) in enumerate(zip(found.keys, captions, strict=True))
  ]
  text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
  files.atomic_write(out / "clip.jsonl", text.encode())
  settings = {**found.identity, "draws": args.draws, "seed": args.seed}
  if args.judge != _EMOJI:
    settings["candidates"] = args.candidates
  told = {
    "scores": {name: x._asdict() for name, x in scores.items()},
    "images": len(found.keys),
    "sha256": found.images,
    "sizes": dict(found.sizes),
    "skipped": list(found.skipped),
    "settings": settings,
    "version": version.VERSION,
  }
  files.write_json(out / "clip.json", told)
  first = next(iter(rows))
  order = np.argsort(rows[first], kind="stable")[:20]
  page = html_report.page(
    "Images against captions",
    [
      html_report.table(
        ("measure", "value", "95 % from", "to"),
        [(name, *map(float, score)) for name, score in scores.items()],
      ),
      html_report.paragraph(
        f"{len(found.keys):,} images; {len(found.skipped)} left out."
      ),
      html_report.picture(image_streams.sheet(stream), "the first images"),
      html_report.heading("Settings"),
      html_report.table(
        ("setting", "value"), [(k, str(v)) for k, v in settings.items()]
      ),
      html_report.heading(f"Lowest {first}"),
      html_report.table(
        ("image", "caption", first),
        [(found.keys[i], captions[i], float(rows[first][i])) for i in order],
      ),
    ],
  )
  files.atomic_write(out / "clip.html", page.encode())
  for name, score in scores.items():
    print(f"{name:<12} {evaluate_features.text(score)}")
  print(f"report: {out / 'clip.html'}")
