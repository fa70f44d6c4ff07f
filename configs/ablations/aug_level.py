"""Noise on x_lr while sampling, over guidance of SR (Fig. A.11a, Section 2.4).

  imagen evaluate ablate --only=aug_level --out=ablations

Nothing is trained: the shipped demo, or `--config.weights=FOLDER`. Argument:
(none) or paper; see common.py.
"""

from ml_collections import ConfigDict

from configs.ablations import common

_WEIGHTS = (1.0, 3.0, 5.0, 7.0, 8.0, 10.0, 12.0, 15.0, 18.0)


def get_config(arg: str = "") -> ConfigDict:
  """The ablation; see the module's text."""
  return common.get(
    arg,
    title="Noise on the small image while sampling",
    figure="A.11a",
    stage="sr",
    axes={"aug_level": (0.0, 0.1, 0.3), "guidance_weight": (1.0, 5.0)},
    paper_axes={
      "aug_level": (0.0, 0.1, 0.2, 0.3),
      "guidance_weight": _WEIGHTS,
    },
    fixed={"steps": 8},
  )
