"""DeepFloyd IF: how `imagen sample` draws what `imagen import` made of it.

  imagen sample --config=configs/if.py:weights/if_m "a red fox in the snow"
  imagen sample --config=configs/if.py:weights/if_m,smart50 "a red fox"

The argument is the folder that `imagen import --from=deepfloyd` wrote and,
after a comma, perhaps a list of steps for stage I: fast27, smart27, smart50,
smart100, smart185, super27, super40 or super100. Otherwise the folder's own
settings hold, which are the public pipelines': stage I 100 steps and guidance
weight 7, stage II 50 steps, weight 4 and x_lr noised to step 250; dynamic
thresholding at percentile 95 with a cap of 1.5 and 1; the learned variance; 77
tokens of the cleaned caption. A setting that is None is the folder's.
"""

from ml_collections import ConfigDict, config_dict

_STAGES = ("base", "sr")
_SETTINGS = {
  "steps": int,
  "spacing": str,
  "sampler": str,
  "guidance_weight": float,
  "threshold": str,
  "percentile": float,
  "threshold_cap": float,
  "aug_level": float,
}
_LISTS = {
  f"{name}{count}": count
  for name, count in (
    *(("fast", 27), ("smart", 27), ("smart", 50), ("smart", 100)),
    *(("smart", 185), ("super", 27), ("super", 40), ("super", 100)),
  )
}


def get_config(argument: str = "weights/if") -> ConfigDict:
  """The config of IF's cascade in a folder, perhaps with a list of steps."""
  weights, _, spacing = argument.partition(",")
  if spacing and spacing not in _LISTS:
    raise ValueError(f"{spacing!r} is no list of steps; use {list(_LISTS)}.")
  config = ConfigDict(
    {
      "weights": weights,
      "files": (),
      "samplers": {name: _sampler() for name in _STAGES},
    }
  )
  if spacing:
    config.samplers.base.spacing = spacing
    config.samplers.base.steps = _LISTS[spacing]
  return config


def _sampler() -> dict:
  return {n: config_dict.placeholder(kind) for n, kind in _SETTINGS.items()}
