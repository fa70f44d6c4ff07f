"""`imagen embed`: captions to an embedding store, once, for all trainings."""

import time
from collections.abc import Sequence

import jax
import tqdm
from absl import logging
from ml_collections import ConfigDict

from imagen_jax import build
from imagen_jax.cli import arguments, config, overrides
from imagen_jax.core import errors, files
from imagen_jax.data import caption_sources
from imagen_jax.text import (
  devices,
  embedding,
  encoders,
  estimate,
  precompute,
  store_format,
  store_parts,
)

_SUMMARY = """\
Encodes captions and stores the states of their real tokens, each different
caption once. Training then reads the store and needs no encoder
(imagen train --config.data.store=FOLDER).

Killed at any moment, the same line goes on where it was and ends with the same
bytes. On several hosts each writes its own shards into one shared folder.

captions  .txt (a caption a line), .jsonl, .tsv, .csv, .parquet, WebDataset
          .tar, also .gz; patterns as "captions/*.tar"; tfds:NAME[:SPLIT];
          seqio:TASK[:SPLIT]; set:FOLDER (of `imagen data build`); emoji
          (the captions of the demo's pictures)
encoder   minilm; the folder of a T5, CLIP or BERT; a T5X checkpoint, local or
          on gs://"""

_EXAMPLES = (
  "imagen embed --captions=captions.txt --out=store",
  "imagen embed --captions=captions.txt --out=store --dry_run",
  "imagen embed --captions=emoji --max_length=28 --out=runs/emoji",
  'imagen embed --captions="data/*.tar" --encoder=encoders/t5_xxl \\',
  "  --precision=bfloat16 --out=store",
  "imagen embed --captions=tfds:coco_captions:train --store_dtype=int8 \\",
  "  --out=store",
)

_CONFIG = "configs/embed.py"
# Each flag sets a field of the config.
_FLAGS = {
  "field": ("field", "NAME", "the column or field; by default it is found"),
  "out": ("out", "FOLDER", "where the store is, or goes on being written"),
  "encoder": ("text.encoder", "NAME", "see above; default minilm"),
  "tokenizer": ("text.tokenizer", "FILE", "default: beside the weights"),
  "max_length": ("text.max_length", "N", "tokens; default by the encoder"),
  "clean": ("text.clean", "NAME", "none (default), lower or deepfloyd"),
  "precision": ("text.precision", "NAME", "float32, bfloat16 or int8"),
  "store_dtype": ("store.dtype", "NAME", "bfloat16 (default) or int8"),
  "shard_size": ("store.shard_size", "N", "captions in a file; default 4096"),
  "batch_size": ("batch_size", "N", "captions in one call; default 64"),
  "tensor_parallel": (
    "tensor_parallel",
    "N",
    "devices that share one copy of the weights; default 1",
  ),
}


def run(argv: Sequence[str]) -> None:
  """Parses the flags, and embeds or estimates."""
  args, cfg = config.parse(argv, _parser())
  for flag, (field, _, _) in _FLAGS.items():
    if getattr(args, flag) is not None:
      overrides.apply(cfg, field, getattr(args, flag))
  _check(cfg)
  source = caption_sources.open_captions(
    args.captions or list(cfg.captions) or _missing("captions"),
    field=cfg.field or None,
    data_dir=args.data_dir,
    module=args.module,
  )
  if args.dry_run:
    _print_estimate(source, cfg)
    return
  if args.distributed:
    jax.distributed.initialize()
  given = (args.host_index, args.host_count)
  if (given[0] is None) != (given[1] is None):
    raise errors.BadInput("--host_index and --host_count go together.")
  here = (jax.process_index(), jax.process_count())
  host = precompute.Host(*(here if given[0] is None else given))
  _embed(source, cfg, host, cfg.out or _missing("out"))


def _parser() -> arguments.Parser:
  parser = config.add_flag(
    arguments.make("embed", _SUMMARY, examples=_EXAMPLES), default=_CONFIG
  )
  add = parser.add_argument
  add(
    "--captions", action="append", metavar="WHERE",
    help="see above; as often as you like",
  )  # fmt: skip
  for flag, (_, metavar, text) in _FLAGS.items():
    add(f"--{flag}", metavar=metavar, help=text)
  add("--data_dir", metavar="FOLDER", help="where tfds finds its datasets")
  add("--module", metavar="NAME", help="imported first: registers seqio tasks")
  add(
    "--dry_run", action="store_true",
    help="only count captions, tokens, bytes, and what is cut; no weights read",
  )  # fmt: skip
  add(
    "--distributed", action="store_true",
    help="one of several hosts of a pod; jax.distributed finds out which",
  )  # fmt: skip
  add("--host_index", type=int, metavar="I", help="or say so: I of N, from 0")
  add("--host_count", type=int, metavar="N", help="hosts that share the work")
  return parser


def _missing(name: str) -> str:
  raise errors.BadInput(f"--{name} is missing; see `imagen embed --help`.")


def _text(cfg: ConfigDict) -> dict:
  """`config.text`, where a length of 0 is the encoder's own."""
  text = build.plain(cfg.text)
  return text | {"max_length": text["max_length"] or None}


def _preview(cfg: ConfigDict) -> encoders.Preview:
  """The encoder as far as it is known without its weights."""
  text = _text(cfg)
  return encoders.preview(
    text["encoder"],
    text["max_length"],
    tokenizer=text["tokenizer"] or None,
    clean=text["clean"],
  )


def _check(cfg: ConfigDict) -> None:
  for name, value in (
    ("batch_size", cfg.batch_size),
    ("shard_size", cfg.store.shard_size),
  ):
    if value < 1:
      raise errors.BadInput(f"{name} {value} is given; it is at least 1.")
  for name, value, known in (
    ("store_dtype", cfg.store.dtype, store_format.DTYPES),
    ("precision", cfg.text.precision, encoders.PRECISIONS),
  ):
    if value not in known:
      raise errors.BadInput(
        f"{name} {value!r} is not known; use {', '.join(known)}."
      )


def _embed(
  source: caption_sources.Captions,
  cfg: ConfigDict,
  host: precompute.Host,
  out: str,
) -> None:
  layout = devices.layout(
    jax.local_devices(), tensor_parallel=cfg.tensor_parallel
  )
  _preview(cfg)
  store_parts.open_folder(out)  # before gigabytes are read
  started = time.monotonic()
  encoder, params = build.encoder(_text(cfg), sharding=layout.params)
  logging.info(
    "encoder %s, width %d, %d tokens, loaded in %.1f s; %d device(s)",
    encoder.name,
    encoder.width,
    encoder.max_length,
    time.monotonic() - started,
    jax.local_device_count(),
  )
  size = -(-cfg.batch_size // layout.data) * layout.data

  def embed_rows(captions: Sequence[str]) -> precompute.Rows:
    found = embedding.embed_rows(
      encoder, params, captions, chunk_size=size, sharding=layout.batch
    )
    return precompute.Rows(found.rows, [*map(bool, found.tokens.cut)])

  with _Bar() as bar:
    result = precompute.run(
      lambda: iter(source),
      embed_rows,
      identity(encoder),
      out,
      dtype=cfg.store.dtype,
      shard_size=cfg.store.shard_size,
      host=host,
      settings={"batch_size": size},
      progress=bar,
    )
  if result.missing:
    print(
      f"this host is done; {result.missing} of {result.shards} shards are"
      " missing. The host that ends last completes the store."
    )
    return
  _print_store(out)


def identity(encoder: encoders.TextEncoder) -> store_format.Identity:
  """What a store of this encoder says made it."""
  return store_format.Identity(
    encoder=encoder.name,
    weights=encoder.fingerprint,
    tokenizer=encoder.tokenizer.sha256,
    max_length=encoder.max_length,
    width=encoder.width,
    clean=encoder.clean,
  )


def _print_store(out: str) -> None:
  manifest = store_format.read_manifest(out)
  size = sum(shard.bytes for shard in manifest.shards)
  print(
    f"{out}: {manifest.examples:,} examples, {manifest.captions:,} different"
    f" captions, {manifest.tokens:,} tokens, {files.size_text(size)},"
    f" {manifest.truncated:,} captions cut\n"
    f"train from it: imagen train --config.data.store={out} ..."
  )


class _Bar:
  """A progress bar with captions/s, time left, and the size at the end."""

  def __init__(self):
    self._bar: tqdm.tqdm | None = None

  def __enter__(self) -> "_Bar":
    return self

  def __call__(self, progress: precompute.Progress) -> None:
    if self._bar is None:
      self._bar = tqdm.tqdm(
        initial=progress.captions,
        total=progress.total,
        unit=" captions",
        mininterval=0.5,
        smoothing=0.05,
      )
    if progress.captions:
      whole = progress.bytes / progress.captions * progress.total
      self._bar.set_postfix_str(
        f"about {files.size_text(whole)}", refresh=False
      )
    self._bar.update(progress.captions - self._bar.n)

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.close()


def _print_estimate(source: caption_sources.Captions, cfg: ConfigDict) -> None:
  """Prints what a run would store."""
  seen = _preview(cfg)
  found = estimate.estimate(
    source, seen, clean=cfg.text.clean, dtype=cfg.store.dtype
  )
  shards = -(-found.captions // cfg.store.shard_size)
  print(
    f"captions    {found.examples:,}, of which {found.captions:,} different\n"
    f"tokens      {found.tokens:,}, {found.tokens / found.captions:.1f} a"
    " caption\n"
    f"truncated   {found.truncated:,} at {seen.max_length} tokens,"
    f" {found.truncated / found.captions:.2%}\n"
    f"unknown     {found.unknown:,} hold words that the tokenizer does not"
    " know\n"
    f"store       {files.size_text(found.bytes)} in {shards:,} shard(s) of"
    f" {cfg.store.dtype}, width {seen.width}, encoder {seen.name}"
  )
  for caption, words in found.lost:
    print(f"for example {caption[:40]!r}... loses {words[:60]!r}")
