"""Peak memory of loading a T5 encoder, against the size of its parameters.

  python benchmarks/t5_load.py --size=xl
  python benchmarks/t5_load.py --size=xxl --weights=int8

Makes a Hugging Face folder of that size in a temporary folder: bfloat16 shards
that are sparse files, all zeros, so that they take no room on disk. A fresh
process loads it on one CPU device and prints one JSON object. `peak_gb` is the
most memory the process ever had resident (VmHWM), `over_gb` how much that is
above the parameters alone; both include Python, JAX and the compiler, which
`before_gb` shows as they were before loading. xxl needs 12 GB free.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

SHARD_BYTES = 5 << 30
FAMILY = "t5_v1_1"


def make_folder(folder: pathlib.Path, size: str) -> None:
  """config.json, sparse shards and their index."""
  from imagen_jax.models import text_variants

  fields = text_variants.VARIANTS[f"{FAMILY}_{size}"].fields
  config = {k: v for k, v in fields.items() if k != "feed_forward"}
  config |= {"model_type": "t5", "feed_forward_proj": fields["feed_forward"]}
  (folder / "config.json").write_text(json.dumps(config))
  shards: list[dict[str, tuple[int, ...]]] = [{}]
  room = SHARD_BYTES
  for name, shape in _shapes(fields).items():
    room -= _nbytes(shape)
    if room < 0:
      shards.append({})
      room = SHARD_BYTES - _nbytes(shape)
    shards[-1][name] = shape
  where = {}
  for i, shard in enumerate(shards, start=1):
    file = f"model-{i:05}-of-{len(shards):05}.safetensors"
    _write_sparse(folder / file, shard)
    where |= dict.fromkeys(shard, file)
  index = json.dumps({"weight_map": where})
  (folder / "model.safetensors.index.json").write_text(index)


def _shapes(fields: dict[str, int]) -> dict[str, tuple[int, ...]]:
  """Names and shapes as Hugging Face has them."""
  d, f = fields["d_model"], fields["d_ff"]
  inner = fields["num_heads"] * fields["d_kv"]
  shapes = {"shared.weight": (fields["vocab_size"], d)}
  for i in range(fields["num_layers"]):
    block = f"encoder.block.{i}.layer"
    for name in "qkv":
      shapes[f"{block}.0.SelfAttention.{name}.weight"] = (inner, d)
    shapes[f"{block}.0.SelfAttention.o.weight"] = (d, inner)
    shapes[f"{block}.0.layer_norm.weight"] = (d,)
    for name in ("wi_0", "wi_1"):
      shapes[f"{block}.1.DenseReluDense.{name}.weight"] = (f, d)
    shapes[f"{block}.1.DenseReluDense.wo.weight"] = (d, f)
    shapes[f"{block}.1.layer_norm.weight"] = (d,)
  shapes["encoder.final_layer_norm.weight"] = (d,)
  table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  return shapes | {table: (32, fields["num_heads"])}


def _nbytes(shape: tuple[int, ...]) -> int:
  return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def _write_sparse(
  path: pathlib.Path, shapes: dict[str, tuple[int, ...]]
) -> None:
  header, begin = {}, 0
  for name, shape in shapes.items():
    end = begin + _nbytes(shape)
    offsets = [begin, end]
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
    begin = end
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + begin)


def measure(folder: str, param_dtype: str, weights: str) -> dict[str, float]:
  """Loads the folder in this process and says what that took."""
  import jax

  from imagen_jax.core import tree
  from imagen_jax.weights import from_hf

  jax.devices()
  before = _memory_gb("VmRSS")
  started = time.perf_counter()
  loaded = from_hf.load(folder, param_dtype=param_dtype, weights=weights)
  jax.block_until_ready(loaded.params)
  size = tree.size_bytes(loaded.params) / 1e9
  peak = _memory_gb("VmHWM")
  return {
    "parameters_gb": size,
    "before_gb": before,
    "peak_gb": peak,
    "over_gb": peak - size,
    "seconds": time.perf_counter() - started,
  }


def _memory_gb(field: str) -> float:
  """A line of /proc/self/status, in units of 1e9 bytes."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e9


def main() -> None:
  """Makes the folder and measures in a fresh process."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  sizes = ("small", "base", "large", "xl", "xxl")
  parser.add_argument("--size", choices=sizes, default="xl")
  parser.add_argument("--param_dtype", default="bfloat16")
  parser.add_argument("--weights", choices=("float", "int8"), default="float")
  parser.add_argument("--measure", help=argparse.SUPPRESS)  # the fresh process
  args = parser.parse_args()
  if args.measure:
    result = measure(args.measure, args.param_dtype, args.weights)
    print(json.dumps({"size": args.size, "weights": args.weights} | result))
    return
  with tempfile.TemporaryDirectory() as folder:
    make_folder(pathlib.Path(folder), args.size)
    command = [sys.executable, __file__, *sys.argv[1:], f"--measure={folder}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
  main()
