"""SR trained with and without noise on x_lr (Fig. A.11b, Section 2.4).

  imagen evaluate ablate --only=noise_augmentation --out=ablations
  imagen plan --config=configs/ablations/noise_augmentation.py:with,paper \
    --topology=v5e:16x16

Arms: with and without; see common.py for the argument. Small images are drawn
by the demo's base, as the question is what SR makes of a base's mistakes.
"""

import functools

from ml_collections import ConfigDict

from configs.ablations import common, efficient_unet


def get_config(arg: str = "") -> ConfigDict:
  """The ablation or an arm; see the module's text."""
  return common.get(
    arg,
    title="Noise on the small image while training",
    figure="A.11b",
    stage="sr",
    arms={
      "with": functools.partial(_arm, max_aug_level=1.0),
      "without": functools.partial(_arm, max_aug_level=0.0),
    },
    axes={"guidance_weight": (1.0, 3.0, 6.0)},
    paper_axes={"guidance_weight": (1.0, 3.0, 5.0, 7.0, 8.0, 10.0, 12.0)},
    fixed={"aug_level": 0.0},
    x_lr="drawn",
  )


def _arm(at_scale: bool, *, max_aug_level: float) -> ConfigDict:
  config = efficient_unet.get_config("efficient" + ",paper" * at_scale)
  config.stage.max_aug_level = max_aug_level
  return config
