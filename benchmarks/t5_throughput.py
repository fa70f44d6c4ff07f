"""Captions a second: our T5 encoder against `transformers` on PyTorch.

  pip install torch==2.13.0 transformers     # beside imagen_jax, for this only
  python benchmarks/t5_throughput.py
  python benchmarks/t5_throughput.py --threads=2 --batch_size=64

Both encode the same 512 captions of mixed length with the same random weights
of T5 v1.1 small, in float32, at the same batch size and number of threads, in
one process, turn about. What counts is the ratio of medians of CPU seconds,
which other programs on the machine disturb less than the clock on the wall.
The peer's ids are made before the clock starts, ours within it. Three ways for
the peer:

  fixed    every caption padded to --max_length, as diffusers' pipelines do
  longest  each batch, in the order given, padded to its longest
  sorted   as `longest`, but sorted by length first: what a careful user writes

Ours sorts and pads to a bucket, as `imagen embed` does. The states are compared
before anything is timed.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable

WORDS = """
a an the of on in with red blue tiny huge wooden glass apple castle river
astronaut watercolour photograph under beside between quietly glowing
background render cat penguin mountain city street market painting
"""


def captions(count: int, seed: int = 0) -> list[str]:
  """Captions of 3 to 60 words, most of them short."""
  rng, words = random.Random(seed), WORDS.split()
  lengths = [min(60, 3 + int(rng.expovariate(1 / 12))) for _ in range(count)]
  return [" ".join(rng.choice(words) for _ in range(n)) for n in lengths]


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--count", type=int, default=512)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--max_length", type=int, default=128)
  parser.add_argument("--repeats", type=int, default=3)
  return parser.parse_args()


def pin(threads: int) -> None:
  """Both libraries get these cores and as many threads; before any import."""
  cores = sorted(os.sched_getaffinity(0))[:threads]
  os.sched_setaffinity(0, cores)
  os.environ["OMP_NUM_THREADS"] = str(threads)


def ours(encoder, params, texts: list[str], batch_size: int) -> Callable:
  from imagen_jax.text import embedding

  return lambda: (
    embedding.embed_rows(encoder, params, texts, chunk_size=batch_size).rows
  )


def peer(model, ids: list, batch_size: int, how: str, length: int) -> Callable:
  import torch

  order = list(range(len(ids)))
  if how == "sorted":
    order.sort(key=lambda i: -len(ids[i]))

  def run() -> list:
    rows: list = [None] * len(ids)
    with torch.inference_mode():
      for begin in range(0, len(ids), batch_size):
        chosen = order[begin : begin + batch_size]
        width = max(len(ids[i]) for i in chosen) if how != "fixed" else length
        batch = torch.zeros((len(chosen), width), dtype=torch.long)
        mask = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, i in enumerate(chosen):
          batch[row, : len(ids[i])] = torch.as_tensor(ids[i])
          mask[row, : len(ids[i])] = 1
        states = model(input_ids=batch, attention_mask=mask).last_hidden_state
        host = states.numpy()
        for row, i in enumerate(chosen):
          rows[i] = host[row, : len(ids[i])].copy()
    return rows

  return run


def pair(max_length: int):
  """(encoder, params, torch model) of T5 v1.1 small with the same weights."""
  import tempfile

  import torch
  import transformers

  from imagen_jax.text import encoders, vocabularies

  torch.manual_seed(0)
  config = transformers.T5Config(
    vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=8,
    num_heads=6, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
  )  # fmt: skip
  model = transformers.T5EncoderModel(config).eval()
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    encoder, params = encoders.load(
      folder, max_length, tokenizer=vocabularies.T5
    )
  return encoder, params, model


def main() -> None:
  args = parse()
  pin(args.threads)
  import numpy as np
  import torch

  from imagen_jax.text import tokenizers

  torch.set_num_threads(args.threads)
  texts = captions(args.count)
  encoder, params, model = pair(args.max_length)
  ids = tokenizers.ragged(
    encoder.tokenizer, texts, max_length=args.max_length
  ).ids
  lengths = [len(row) for row in ids]
  print(
    f"{len(ids)} captions, {min(lengths)} to {max(lengths)} tokens, mean"
    f" {statistics.mean(lengths):.1f}; batch {args.batch_size},"
    f" {args.threads} thread(s), float32, T5 v1.1 small, random weights"
  )
  runs = {"ours": ours(encoder, params, texts, args.batch_size)}
  for how in ("fixed", "longest", "sorted"):
    runs[how] = peer(model, ids, args.batch_size, how, args.max_length)
  first = {name: run() for name, run in runs.items()}  # compiles, warms up
  for how in ("fixed", "longest", "sorted"):
    worst = max(
      float(np.abs(a - b).max())
      for a, b in zip(first["ours"], first[how], strict=True)
    )
    print(f"largest difference to {how}: {worst:.2e}")
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  walls: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(args.repeats):
    for name, run in runs.items():
      start, cpu = time.perf_counter(), time.process_time()
      run()
      walls[name].append(time.perf_counter() - start)
      seconds[name].append(time.process_time() - cpu)
  base = statistics.median(seconds["ours"])
  for name, times in seconds.items():
    middle = statistics.median(times)
    print(
      f"{name:8} {middle:7.2f} CPU-s, {min(times):.2f} to {max(times):.2f};"
      f" {args.count / statistics.median(walls[name]):6.1f} captions/s on the"
      f" wall; ours is x{middle / base:.2f}"
    )


if __name__ == "__main__":
  main()
