"""The tiny DeepFloyd IF of tests/golden/deepfloyd, as arrays and as folders."""

import functools
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from imagen_jax.core import tree
from imagen_jax.weights import deepfloyd_config, from_deepfloyd, tensors

GOLDEN = pathlib.Path(__file__).parent / "golden" / "deepfloyd"


@functools.cache
def unet(stage: int) -> dict[str, np.ndarray]:
  """The tensors of a stage's U-Net; all of them are bfloat16 numbers.

  The file holds the high and the low bytes, which compress better apart.
  """
  with np.load(GOLDEN / "weights.npz") as file:
    high, low = (file[f"stage{stage}_{part}"] for part in ("high", "low"))
    shapes = json.loads(str(file[f"stage{stage}_shapes"]))
  bits = high.astype(np.uint32) << 24 | low.astype(np.uint32) << 16
  parts = np.split(
    bits.view(np.float32), np.cumsum([np.prod(s) for s in shapes.values()])
  )
  named = zip(shapes.items(), parts[:-1], strict=True)
  return {name: part.reshape(shape) for (name, shape), part in named}


def read_config(stage: int, file: str = "config.json") -> dict:
  return json.loads((GOLDEN / f"stage{stage}" / "unet" / file).read_text())


def io(stage: int) -> dict[str, np.ndarray]:
  with np.load(GOLDEN / f"stage{stage}" / "unet_io.npz") as file:
    return dict(file)


def source(stage: int, arrays=None, config=None) -> from_deepfloyd.Source:
  """A stage in memory, or other tensors and config in its place."""
  content = config or read_config(stage)
  fields = deepfloyd_config.fields(content, "config.json")
  found = tensors.of(arrays or unet(stage))
  width = content["encoder_hid_dim"]
  return from_deepfloyd.Source(found, fields, width, content, {}, "unet")


def params(stage: int, dtype):
  """Our parameters of a stage, on the host."""
  planned = from_deepfloyd.plan(source(stage))
  return tree.unflatten(
    {
      target: jnp.asarray(from_.transform(unet(stage)[from_.source]), dtype)
      for target, from_ in planned.items()
    }
  )


def write(
  folder: pathlib.Path,
  stage: int,
  *,
  name: str = "diffusion_pytorch_model.safetensors",
  dtype=np.float32,
) -> pathlib.Path:
  """A stage as its public folder is laid out; returns the folder."""
  shutil.copytree(GOLDEN / f"stage{stage}", folder, dirs_exist_ok=True)
  tensors = {n: np.asarray(x, dtype) for n, x in unet(stage).items()}
  safetensors.numpy.save_file(tensors, folder / "unet" / name, {"format": "pt"})
  return folder
