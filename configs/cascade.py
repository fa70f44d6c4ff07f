"""A cascade to sample from: where its weights are, how each stage is sampled.

  imagen sample --config=configs/cascade.py "a 3D render of a crab"
  imagen sample --config=configs/cascade.py:runs/demo \
    --config.samplers.base.guidance_weight=5 "a 3D render of a crab"

The argument is a folder that `imagen export` wrote; without it, the demo that
is shipped. A setting that is None is the one that the folder names.
"""

from ml_collections import ConfigDict, config_dict

_STAGES = ("base", "sr")
_SETTINGS = {
  "steps": int,
  "spacing": str,
  "sampler": str,
  "guidance_weight": float,
  "guidance_schedule": str,
  "threshold": str,
  "percentile": float,
  "threshold_cap": float,
  "gamma": float,
  "eta": float,
  "aug_level": float,
}


def get_config(weights: str = "") -> ConfigDict:
  """The config of a cascade of the stages `base` and `sr`."""
  return ConfigDict(
    {
      "weights": weights,
      "files": (),  # stage files of `imagen export`, in place of a folder
      "samplers": {name: _sampler() for name in _STAGES},
    }
  )


def _sampler() -> dict:
  return {n: config_dict.placeholder(kind) for n, kind in _SETTINGS.items()}
