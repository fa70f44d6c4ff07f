"""`imagen import`: public checkpoints into ours; text encoders are here.

`import_deepfloyd` has DeepFloyd IF. A T5X checkpoint becomes a Hugging Face
folder; one of Hugging Face is checked, rid of what an encoder has no use for,
and cast. Either way the result is one that `transformers` reads as well.
"""

import pathlib
from collections.abc import Sequence

from imagen_jax.cli import arguments, import_deepfloyd
from imagen_jax.core import errors, files
from imagen_jax.text import vocabularies
from imagen_jax.weights import from_hf, from_t5x, hf_writer

_SUMMARY = """\
Reads a public checkpoint and checks that every tensor has its place.

--from=t5x   a checkpoint_1000000 of google-research/t5x, local or on gs://
--from=hf    a folder of Hugging Face: T5, CLIP, BERT
--from=deepfloyd   folders of DeepFloyd IF as diffusers keeps them: one of stage
             I, or one of each stage; float32 or float16, safetensors or .bin

A text encoder is written alone as a folder with config.json, safetensors and
tokenizer, one tensor in memory at a time. `imagen embed --encoder` reads it
without this, too; import once what many machines will read.

DeepFloyd IF becomes a cascade that `imagen sample` reads. Its licence is shown,
and has to be accepted by --accept_license."""

_EXAMPLES = (
  "imagen import --from=t5x --out=encoders/t5_xxl \\",
  "  --source=gs://t5-data/pretrained_models/t5x/t5_1_1_xxl/checkpoint_1000000",
  "imagen import --from=hf --source=t5-v1_1-large --out=encoders/t5_large \\",
  "  --dtype=float32",
  "imagen import --from=deepfloyd --accept_license=deepfloyd-if \\",
  "  --source=IF-I-M-v1.0 --source=IF-II-M-v1.0 --out=weights/if_m",
)

_READERS = {"t5x": from_t5x.read, "hf": from_hf.read}
# What a tokenizer may consist of, in a folder of Hugging Face.
_TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "spiece.model",
  "vocab.json",
  "merges.txt",
  "vocab.txt",
)


def run(argv: Sequence[str]) -> None:
  """Parses the flags, checks, and converts."""
  args = arguments.parse(argv, _parser())
  if args.kind == "deepfloyd":
    args.dtype = args.dtype or "float32"
    import_deepfloyd.run(args)
    return
  if len(args.source) > 1:
    raise errors.BadInput(
      f"{len(args.source)} sources are given; a text encoder has one."
    )
  (args.source,) = args.source
  args.dtype = args.dtype or "bfloat16"
  source = _READERS[args.kind](args.source)
  tensors = from_hf.used(source)
  beside = _tokenizer(args.tokenizer, args.kind, args.source)
  hf_writer.write_hf_folder(
    tensors, source.config, args.out, args.dtype, beside=beside
  )
  size = sum(path.stat().st_size for path in pathlib.Path(args.out).iterdir())
  print(
    f"{args.out}: {source.config['model_type']}, {len(tensors)} tensors,"
    f" {files.size_text(size)}\nimagen embed --encoder={args.out} ..."
  )


def _parser() -> arguments.Parser:
  parser = arguments.make("import", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add(
    "--from", dest="kind", required=True, choices=(*_READERS, "deepfloyd"),
    help="what kind of checkpoint it is",
  )  # fmt: skip
  add(
    "--source", required=True, action="append", metavar="FOLDER",
    help="where it is; of deepfloyd once for each stage",
  )  # fmt: skip
  add("--out", required=True, metavar="FOLDER", help="a new folder")
  add(
    "--dtype", choices=("float32", "float16", "bfloat16"),
    help="of the weights; default bfloat16, and float32 of deepfloyd",
  )  # fmt: skip
  add(
    "--tokenizer", metavar="FILE",
    help="tokenizer.json or spiece.model; by default those beside the weights,"
    " and the vocabulary of T5 for a T5X checkpoint",
  )  # fmt: skip
  add(
    "--encoder", metavar="FOLDER",
    help="of deepfloyd: its T5; default: text_encoder/ of the first source",
  )  # fmt: skip
  add(
    "--accept_license", metavar="NAME",
    help="of deepfloyd: the licence that you agree to, as it is shown",
  )  # fmt: skip
  return parser


def _tokenizer(given: str | None, kind: str, source: str) -> dict[str, bytes]:
  """The files of the tokenizer, by name."""
  if given is not None:
    path = pathlib.Path(given)
    vocabularies.load(path)
    name = "spiece.model" if path.suffix == ".model" else "tokenizer.json"
    return {name: path.read_bytes()}
  if kind == "t5x":
    return {"tokenizer.json": vocabularies.t5_json()}
  paths = (pathlib.Path(source, name) for name in _TOKENIZER_FILES)
  found = {path.name: path.read_bytes() for path in paths if path.is_file()}
  if not found:
    raise errors.BadInput(
      f"{source} holds no tokenizer; give the encoder's own with --tokenizer."
    )
  vocabularies.load(source)
  return found
