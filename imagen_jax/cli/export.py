"""`imagen export`: trained stages to safetensors, and cascades of them."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from etils import epath

from imagen_jax import build, build_adapters
from imagen_jax.cascade import folder
from imagen_jax.cli import arguments
from imagen_jax.core import errors, files, tree
from imagen_jax.train import checkpoints, lora, restore
from imagen_jax.weights import readers, to_deepfloyd

_SUMMARY = """\
Writes a trained stage as one safetensors file, which carries its config, or
several stages as a folder that `imagen sample --weights=FOLDER` reads.

With --to=deepfloyd a stage file that `imagen import --from=deepfloyd` wrote
becomes a folder that diffusers loads again; its licence goes with it.

The parameters are the EMA of training, in bfloat16: half the size, and no
difference to be seen in the images."""

_EXAMPLES = (
  "imagen export --checkpoint=runs/base --out=base.safetensors",
  "imagen export --checkpoint=runs/base/checkpoints/4000 --params=raw \\",
  "  --dtype=float32 --out=base_4000.safetensors",
  "imagen export --checkpoint=runs/base --checkpoint=runs/sr --out=runs/demo",
  "imagen export --to=deepfloyd --checkpoint=weights/if_m/base.safetensors \\",
  "  --dtype=float32 --out=IF-I-M-again",
)

_SUFFIX = ".safetensors"


class _Source(NamedTuple):
  """A workdir's checkpoint: which, and what run.json says of it."""

  workdir: epath.Path
  step: int | None
  run: dict


def run(argv: Sequence[str]) -> None:
  """Exports one stage to a file, or several to a folder."""
  args = arguments.parse(argv, _parser())
  if args.to == "deepfloyd":
    _to_deepfloyd(args)
    return
  sources = [_source(text) for text in args.checkpoint]
  out = epath.Path(args.out)
  if out.suffix == _SUFFIX:
    if len(sources) > 1:
      raise errors.BadInput(
        f"--out={args.out} is one file, but {len(sources)} checkpoints are"
        " given; give a folder."
      )
    files.check_writable(out.parent)
    _export(sources[0], out, args)
    return
  _check_fit(sources, args.note)
  files.check_writable(out)
  paths = [out / f"{_name(source)}{_SUFFIX}" for source in sources]
  for source, path in zip(sources, paths, strict=True):
    _export(source, path, args)
  folder.write_manifest(out, folder.from_files(paths, args.note))
  print(f'try it: imagen sample --weights={out} "a prompt"')


def _to_deepfloyd(args: argparse.Namespace) -> None:
  """A stage file as a folder of diffusers."""
  if len(args.checkpoint) > 1 or not args.checkpoint[0].endswith(_SUFFIX):
    raise errors.BadInput(
      "--to=deepfloyd takes one --checkpoint, a stage file that `imagen import"
      " --from=deepfloyd` wrote, as base.safetensors."
    )
  (path,) = args.checkpoint
  if args.dtype == "bfloat16":
    raise errors.BadInput(
      "--to=deepfloyd writes --dtype=float32 or float16, as the public files"
      " are."
    )
  entry = folder.read_stage(path)
  to_deepfloyd.write(
    folder.load_params(path),
    entry.info.stage,
    entry.info.sampler,
    args.out,
    dtype=args.dtype,
  )
  print(f"{args.out}: stage {entry.info.name} in {args.dtype}, for diffusers")


def _parser() -> arguments.Parser:
  parser = arguments.make("export", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add(
    "--checkpoint", action="append", required=True, metavar="FOLDER",
    help="a workdir (its newest checkpoint) or WORKDIR/checkpoints/STEP; give"
    " one a stage to make a cascade",
  )  # fmt: skip
  add(
    "--out", required=True, metavar="PATH",
    help=f"FILE{_SUFFIX} for one stage, a folder for a cascade",
  )  # fmt: skip
  add("--params", choices=("ema", "raw"), default="ema", help="default: ema")
  add(
    "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16",
    help="of the file (default: bfloat16)",
  )  # fmt: skip
  add("--to", choices=("deepfloyd",), help="a folder of diffusers instead")
  add("--note", default="", metavar="TEXT", help="kept in cascade.json")
  return parser


def _source(text: str) -> _Source:
  """The checkpoint that a flag names."""
  path, step = epath.Path(text), None
  if path.parent.name == checkpoints.FOLDER and path.name.isdecimal():
    path, step = path.parent.parent, int(path.name)
  if not (path / "run.json").exists():
    raise errors.BadInput(
      f"--checkpoint={text}: {path} holds no run.json; give the --workdir of"
      " `imagen train`, or WORKDIR/checkpoints/STEP."
    )
  run = readers.read_json(path / "run.json")
  config = run.get("config")
  if not isinstance(config, dict) or not {"stage", "text", "sampler"} <= set(
    config
  ):
    raise errors.CheckpointError(
      f"{path / 'run.json'} holds no config of a stage; it was not written by"
      " `imagen train`."
    )
  return _Source(path, step, run)


def _name(source: _Source) -> str:
  return source.run["config"]["stage"]["name"]


def _info(source: _Source, params: str, step: int) -> folder.StageInfo:
  config = source.run["config"]
  return folder.StageInfo(
    stage=config["stage"],
    text=config["text"],
    sampler=config["sampler"],
    step=step,
    params=params,
    config_hash=source.run.get("config_hash", ""),
    encoder_sha256=source.run.get("hashes", {}).get("encoder", ""),
  )


def _check_fit(sources: list[_Source], note: str) -> None:
  """That the stages make a cascade, before anything is written."""
  entries = [
    folder.Entry(source.workdir, info, info.sampler, "")
    for source in sources
    for info in [_info(source, "ema", 0)]
  ]
  folder.check(folder.describe(entries, note))


def _export(
  source: _Source, path: epath.Path, args: argparse.Namespace
) -> None:
  """Writes one stage file and says what is in it."""
  config = source.run["config"]
  stage = build.stage(config["stage"])
  restored = restore.restore_params(
    source.workdir,
    build_adapters.shapes(config, stage),
    which=args.params,
    step=source.step,
  )
  base = build_adapters.base(config, stage)
  if base is not None:
    _check_base(source, lora.digest(base))
  params = build_adapters.binder(config)(restored.params, base)
  info = _info(source, args.params, restored.step)
  folder.save_stage(path, params, info, dtype=jnp.dtype(args.dtype))
  megabytes = path.stat().length / 1e6
  print(
    f"{path}: {args.params} parameters of step {restored.step},"
    f" {tree.count(params):,} in {args.dtype}, {megabytes:.1f} MB"
  )


def _check_base(source: _Source, digest: str) -> None:
  """Adapters mean nothing on another base than they were trained on."""
  wanted = source.run.get("hashes", {}).get("base")
  if digest != wanted:
    start = source.run["config"]["start"]["source"]
    raise errors.BadInput(
      f"{start!r} is not what the adapters in {source.workdir} were trained"
      f" on: its digest is {digest[:12]}..., theirs {str(wanted)[:12]}...; put"
      " those weights back."
    )
