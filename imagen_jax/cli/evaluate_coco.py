"""`imagen evaluate coco`: zero-shot FID on COCO, from captions to a number."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np
from etils import epath
from jaxtyping import UInt8

from imagen_jax import build, version
from imagen_jax.cli import (
  arguments,
  coco_images,
  config,
  data_report,
  evaluate_features,
)
from imagen_jax.core import errors, files
from imagen_jax.data import image_item, image_transforms
from imagen_jax.evals import (
  bootstrap,
  clip_features,
  clip_score,
  coco,
  features,
  html_report,
  image_streams,
  inception_features,
  inception_input,
  set_measures,
)

CONFIG = "configs/eval_coco.py"

_SUMMARY = """\
Zero-shot FID on COCO 2014, as in the paper's Table 1, by one line: draws one
image of each of 30,000 captions of the validation set, which the seed chooses,
and measures them against all real images of that set, cut to the middle square
and made 256 pixels wide. FID, KID, precision and recall; and CLIP score where
--config.judge is the folder of a CLIP.

Everything is checked before anything is drawn. OUT gets samples.jsonl (the
list: annotation, real file, prompt, generated file), prompts.txt, images/ with
manifest.json, coco.json and coco.html. Images that are there are not drawn
again, so the same line goes on after a stop. The fields of the config are in
configs/eval_coco.py."""

_EXAMPLES = (
  f"imagen evaluate coco --config={CONFIG}:coco2014 \\",
  "  --config.cascade.weights=runs/paper --out=fid30k",
  f"imagen evaluate coco --config={CONFIG}:coco2014 --config.count=100 \\",
  "  --config.reference=listed --out=short",
)
_REFERENCES = ("all", "listed")


def main(argv: Sequence[str]) -> None:
  """Checks everything, draws what is missing, measures and reports."""
  args, cfg = config.parse(argv, _parser())
  _check(cfg)
  found = coco.read(pathlib.Path(cfg.data, cfg.captions))
  samples = coco.choose(found, cfg.count, cfg.seed)
  listed = [sample.caption.image for sample in samples]
  real = coco.real_images(
    found,
    pathlib.Path(cfg.data, cfg.images),
    listed if cfg.reference == "listed" else None,
  )
  network = _squared(
    inception_features.load(cfg.inception or None, cfg.resize), cfg.resolution
  )
  judge = clip_features.load(cfg.judge) if cfg.judge else None
  out = files.check_writable(args.out)
  drawn = coco_images.draw(cfg, found, samples, out)

  def read() -> Iterator[image_item.Item]:
    for name in drawn.names:
      yield image_item.Item(name, (drawn.folder / name).read_bytes())

  fake = image_streams.Stream("images", read, len(drawn.names))
  rows = evaluate_features.run("generated", fake, network, args)
  others = evaluate_features.run("real", real, network, args)
  settings = set_measures.Settings(draws=cfg.draws, seed=cfg.seed)
  scores = set_measures.measure(rows, others, settings)
  if judge is not None:
    texts = [sample.caption.text for sample in samples]
    scores |= _alignment(judge, fake, texts, cfg, args)
  protocol = _protocol(cfg, found, rows, others)
  # All are made one size; that photos have many is no news.
  same = (found._replace(sizes={}) for found in (rows, others))
  notes = set_measures.notes(*same) + _notes(cfg)
  _report(out, scores, protocol, drawn.made, notes, (fake, real))


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate coco", _SUMMARY, examples=_EXAMPLES)
  config.add_flag(parser)
  add = parser.add_argument
  add("--out", required=True, metavar="FOLDER", help="made if it is not there")
  add("--cache", metavar="FOLDER", help="of features; default OUT/features")
  add(
    "--batch_size", type=data_report.positive, default=64, metavar="N",
    help="images measured at a time; memory and speed only (default 64)",
  )  # fmt: skip
  parser.set_defaults(skip_damaged=False)
  return parser


def _check(cfg: ml_collections.ConfigDict) -> None:
  try:
    known = (cfg.data, cfg.captions, cfg.images, cfg.reference, cfg.cascade)
  except AttributeError as error:
    raise errors.BadInput(
      f"the config is none of this protocol ({error}); use {CONFIG}:DATA."
    ) from error
  if not known[0]:
    raise errors.BadInput(
      f"where COCO lies is not given; write --config={CONFIG}:DATA, or"
      " --config.data=DATA."
    )
  if cfg.reference not in _REFERENCES:
    raise errors.BadInput(
      f"reference {cfg.reference!r}; it is {' or '.join(_REFERENCES)}."
    )
  for name, low, high in (
    ("resolution", 16, 4096), ("batch_size", 1, 10**6), ("draws", 2, 10**6),
    ("seed", 0, 2**32 - 1),
  ):  # fmt: skip
    if not low <= cfg[name] <= high:
      raise errors.BadInput(
        f"{name} {cfg[name]}; it must be from {low} to {high}."
      )
  inception_input.check(cfg.resize)


def _squared(network: features.Network, side: int) -> features.Network:
  """The network on the middle square of an image, `side` pixels wide."""

  def prepare(pixels: UInt8[np.ndarray, "_ _ 3"]) -> features.Prepared:
    square = image_transforms.square(pixels, side, 0.5, upscale=True)
    return network.prepare(square)

  identity = dict(network.identity) | {"square": f"middle, {side} pixels"}
  return dataclasses.replace(network, prepare=prepare, identity=identity)


def _alignment(
  judge: clip_features.Clip,
  fake: image_streams.Stream,
  captions: Sequence[str],
  cfg: ml_collections.ConfigDict,
  args: argparse.Namespace,
) -> set_measures.Scores:
  """CLIP score and R-precision of the images and their captions."""
  found = evaluate_features.run("CLIP", fake, judge.network, args)
  rows = clip_score.rows(
    found.rows["embedding"],
    clip_features.embed_texts(judge, captions),
    captions,
    candidates=min(100, len(captions)),
    seed=cfg.seed,
  )
  mean: Callable[..., float] = lambda some: float(some.mean())  # noqa: E731
  return {
    name: bootstrap.interval(mean, [values], draws=cfg.draws, seed=cfg.seed)
    for name, values in rows.items()
  }


def _protocol(
  cfg: ml_collections.ConfigDict,
  found: coco.Captions,
  fake: features.Features,
  real: features.Features,
) -> dict[str, files.Json]:
  """All that the number hangs on, but the cascade."""
  return {
    "captions": pathlib.PurePath(cfg.captions).name,
    "captions_sha256": found.digest,
    "count": cfg.count,
    "seed": cfg.seed,
    "reference": cfg.reference,
    "real_images": len(real.keys),
    "real_sha256": real.images,
    "generated_sha256": fake.images,
    "draws": cfg.draws,
    "judge": pathlib.PurePath(cfg.judge).name,
    **fake.identity,
    "cascade": build.plain(cfg.cascade.samplers),
  }


def _notes(cfg: ml_collections.ConfigDict) -> list[str]:
  if cfg.count == 30_000 and cfg.reference == "all":
    return []
  return [
    f"{cfg.count:,} captions and {cfg.reference} real images: not the protocol"
    " of FID-30K, which takes 30,000 captions and all images."
  ]


def _report(
  out: epath.Path,
  scores: set_measures.Scores,
  protocol: dict[str, files.Json],
  made: dict,
  notes: Sequence[str],
  streams: tuple[image_streams.Stream, image_streams.Stream],
) -> None:
  """coco.json, coco.html, and a table on the terminal."""
  told = {name: score._asdict() for name, score in scores.items()}
  files.write_json(
    out / "coco.json",
    {
      "scores": told,
      "protocol": protocol,
      "made": made,
      "notes": list(notes),
      "version": version.VERSION,
    },
  )
  fake, real = streams
  page = html_report.page(
    "Zero-shot on COCO",
    [
      html_report.table(
        ("measure", "value", "95 % from", "to"),
        [(name, *map(float, score)) for name, score in scores.items()],
      ),
      *map(html_report.paragraph, notes),
      html_report.picture(image_streams.sheet(fake), "the first generated"),
      html_report.picture(image_streams.sheet(real), "the first real"),
      html_report.heading("Protocol"),
      html_report.table(
        ("setting", "value"), [(k, _text(v)) for k, v in protocol.items()]
      ),
      html_report.heading("What made the images"),
      html_report.table(
        ("setting", "value"), [(k, _text(v)) for k, v in sorted(made.items())]
      ),
    ],
  )
  files.atomic_write(out / "coco.html", page.encode())
  for name, score in scores.items():
    print(f"{name:<16} {evaluate_features.text(score)}")
  for note in notes:
    print(f"note: {note}")
  print(f"report: {out / 'coco.html'}")


def _text(value: files.Json) -> str:
  return value if isinstance(value, str) else json.dumps(value)
