"""Our DeepFloyd IF -> the folder of a pipeline that diffusers loads.

  model_index.json            IFPipeline or IFSuperResolutionPipeline; its text
                              encoder, tokenizer and checkers are left open
  unet/config.json, unet/diffusion_pytorch_model.safetensors
  scheduler/scheduler_config.json
  image_noising_scheduler/    of stage II

The folder is made under another name and renamed: it is whole or not there.
"""

import os
import shutil
import uuid
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from jaxtyping import DTypeLike

from imagen_jax.core import arrays, errors, files, tree
from imagen_jax.weights import deepfloyd_config, deepfloyd_names, from_deepfloyd

_OPEN = (
  "feature_extractor",
  "safety_checker",
  "text_encoder",
  "tokenizer",
  "watermarker",
)


def tensors(
  params: arrays.Params, levels: int, dtype: DTypeLike
) -> dict[str, np.ndarray]:
  """Our parameters under diffusers' names and in its layouts."""
  found = {}
  for target, leaf in tree.flatten(params).items():
    name, back = deepfloyd_names.source_name(target, levels)
    found[name] = np.ascontiguousarray(back(np.asarray(leaf, dtype)))
  return found


def write(
  params: arrays.Params,
  stage: Mapping[str, object],
  sampler: Mapping[str, object],
  out: str | os.PathLike,
  *,
  dtype: DTypeLike = np.float32,
) -> None:
  """Writes a stage as the new folder `out`; the dicts are its configs."""
  fields = stage["fields"]
  if stage["network"] != from_deepfloyd.NETWORK or not stage.get("discrete"):
    raise errors.BadInput(
      f"stage {stage['name']!r} is no DeepFloyd IF; diffusers has no network of"
      " its kind. Export it without --to."
    )
  out = os.path.abspath(os.fspath(out))
  if os.path.exists(out):
    raise errors.BadInput(f"{out} exists already; give a new folder's path.")
  parent, name = os.path.split(out)
  files.check_writable(parent)
  temporary = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
  try:
    for folder, content in _jsons(stage, sampler).items():
      os.makedirs(os.path.join(temporary, os.path.dirname(folder)), 0o777, True)
      files.write_json(os.path.join(temporary, folder), content)
    safetensors.numpy.save_file(
      tensors(params, len(fields["channel_mult"]), dtype),
      os.path.join(temporary, "unet", f"{from_deepfloyd.STEM}.safetensors"),
      {"format": "pt"},
    )
    os.rename(temporary, out)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _jsons(
  stage: Mapping[str, object], sampler: Mapping[str, object]
) -> dict[str, dict]:
  """The small files by path."""
  second = bool(stage["fields"]["low_resolution_cond"])
  found = {
    "unet/config.json": deepfloyd_config.config(
      stage["fields"], stage["text_width"]
    ),
    "scheduler/scheduler_config.json": _scheduler(sampler),
    "model_index.json": _index(second),
  }
  if second:
    plain = {"threshold": "none", "learned_variance": False}
    found["image_noising_scheduler/scheduler_config.json"] = _scheduler(plain)
  return found


def _scheduler(sampler: Mapping[str, object]) -> dict[str, object]:
  threshold = sampler["threshold"]
  return {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": threshold != "none",
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": sampler.get("percentile", 95.0) / 100.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": sampler.get("threshold_cap") or 1.0,
    "thresholding": threshold == "dynamic",
    "trained_betas": None,
    "variance_type": (
      "learned_range" if sampler["learned_variance"] else "fixed_small"
    ),
  }


def _index(second: bool) -> dict[str, object]:
  kind = "IFSuperResolutionPipeline" if second else "IFPipeline"
  noising = {"image_noising_scheduler": ["diffusers", "DDPMScheduler"]}
  return {
    "_class_name": kind,
    **{name: [None, None] for name in _OPEN},
    **(noising if second else {}),
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", deepfloyd_config.CLASS],
  }
