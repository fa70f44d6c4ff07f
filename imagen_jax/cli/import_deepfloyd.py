"""`imagen import --from=deepfloyd`: DeepFloyd IF's stages as a cascade."""

import argparse
import os

import jax.numpy as jnp
from etils import epath

from imagen_jax.cascade import folder
from imagen_jax.core import errors, files, tree
from imagen_jax.weights import deepfloyd_stage, from_deepfloyd

LICENSE = "deepfloyd-if"
NOTICE = """\
The weights of DeepFloyd IF are under the DeepFloyd IF License, which comes with
them (LICENSE-MODEL; read it). In short, and not in its place:
- research only and non-commercial: no product, no service, no production;
- images made with the weights are covered as well;
- no military use, surveillance or biometric processing, and none of its other
  prohibited uses; filters and safeguards may not be circumvented;
- whoever passes the weights on, converted ones too, passes on the licence and
  its attribution notice; it can be revoked.
imagen_jax ships none of these weights, and no safety checker runs here."""


def run(args: argparse.Namespace) -> None:
  """Checks, shows the licence, and writes stage files and cascade.json."""
  print(NOTICE)
  if args.accept_license != LICENSE:
    raise errors.BadInput(
      "the licence is not accepted; read it, and add"
      f" --accept_license={LICENSE} if you agree to it."
    )
  sources = [from_deepfloyd.read(path) for path in args.source]
  encoder, tokenizer = _text(args)
  infos = [_info(source, encoder, tokenizer) for source in sources]
  out = files.check_writable(args.out)
  if (out / folder.MANIFEST).exists():
    raise errors.BadInput(
      f"{args.out} holds a {folder.MANIFEST} already; give a new folder."
    )
  paths = [out / f"{info.name}.safetensors" for info in infos]
  note = (
    "DeepFloyd IF, under the DeepFloyd IF License (non-commercial research)"
  )
  entries = [
    folder.Entry(path, info, info.sampler, "")
    for path, info in zip(paths, infos, strict=True)
  ]
  folder.check(folder.describe(entries, note))
  for source, path, info in zip(sources, paths, infos, strict=True):
    _write(source, path, info, args.dtype)
  folder.write_manifest(out, folder.from_files(paths, note))
  print(f'try it: imagen sample --config=configs/if.py:{args.out} "a prompt"')


def _info(
  source: from_deepfloyd.Source, encoder: str, tokenizer: str
) -> folder.StageInfo:
  return folder.StageInfo(
    stage=deepfloyd_stage.config(source),
    text=deepfloyd_stage.text(encoder, tokenizer),
    sampler=deepfloyd_stage.sampler(source),
    params="raw",
  )


def _text(args: argparse.Namespace) -> tuple[str, str]:
  """Folders of the text encoder and of its tokenizer, absolute."""
  first = args.source[0]
  encoder = args.encoder or os.path.join(first, "text_encoder")
  if not os.path.exists(os.path.join(encoder, "config.json")):
    raise errors.BadInput(
      f"{encoder} holds no config.json of a text encoder; give IF's T5 with"
      " --encoder=FOLDER."
    )
  beside = os.path.join(os.path.dirname(os.path.abspath(encoder)), "tokenizer")
  tokenizer = args.tokenizer or (beside if os.path.isdir(beside) else "")
  return os.path.abspath(encoder), tokenizer and os.path.abspath(tokenizer)


def _write(
  source: from_deepfloyd.Source,
  path: epath.Path,
  info: folder.StageInfo,
  dtype: str,
) -> None:
  """Reads, converts and writes one stage, and says so."""
  loaded = from_deepfloyd.build(source, param_dtype=jnp.dtype(dtype))
  folder.save_stage(path, loaded.params, info, dtype=jnp.dtype(dtype))
  count, size = tree.count(loaded.params), path.stat().length
  print(
    f"{path}: {source.what}, {len(source.tensors)} tensors, {count:,}"
    f" parameters in {dtype}, {files.size_text(size)}"
  )
