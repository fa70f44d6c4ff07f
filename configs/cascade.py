"""A cascade to sample from: where its weights are, how each stage is sampled.

  imagen sample --config=configs/cascade.py "a 3D render of a crab"
  imagen sample --config=configs/cascade.py:runs/demo \
    --config.samplers.base.guidance_weight=5 "a 3D render of a crab"

  imagen sample --config=configs/cascade.py:,few "a 3D render of a crab"

The argument is a folder that `imagen export` wrote; without it, the demo that
is shipped. After a comma, how many steps, where the folder is not to say:

  few    16 and 8 steps: of the demo, what `many` makes in a sixteenth of the
         time (docs/sampling.md)
  many   256 and 128 ancestral steps, as in the paper

A setting that is None is the one that the folder names.
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
_PRESETS = {
  "few": {
    "base": {"sampler": "sde_dpm_solver_pp", "steps": 16},
    "sr": {"sampler": "dpm_solver_pp", "steps": 8},
  },
  "many": {
    "base": {"sampler": "ancestral", "steps": 256},
    "sr": {"sampler": "ancestral", "steps": 128},
  },
}


def get_config(argument: str = "") -> ConfigDict:
  """The config of a cascade of the stages `base` and `sr`."""
  weights, _, preset = argument.partition(",")
  if preset and preset not in _PRESETS:
    raise ValueError(f"{preset!r} is no preset; use one of {list(_PRESETS)}.")
  config = ConfigDict(
    {
      "weights": weights,
      "files": (),  # stage files of `imagen export`, in place of a folder
      "samplers": {name: _sampler() for name in _STAGES},
    }
  )
  for name, settings in _PRESETS.get(preset, {}).items():
    config.samplers[name].update(settings)
  return config


def _sampler() -> dict:
  return {n: config_dict.placeholder(kind) for n, kind in _SETTINGS.items()}
