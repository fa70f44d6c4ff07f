"""Sizes of the base's U-Net (Figs. 4b, A.13b).

  imagen evaluate ablate --only=unet_size --out=ablations
  imagen plan --config=configs/ablations/unet_size.py:2b,paper \
    --topology=v5e:16x16

Arms: 300m, 500m, 1b and 2b with paper; d8, d16 and d32 (embed_dim) without.
See common.py for the argument.
"""

import functools

from ml_collections import ConfigDict

from configs.ablations import common

_SIZES = ("300m", "500m", "1b", "2b")
_WIDTHS = (8, 16, 32)


def get_config(arg: str = "") -> ConfigDict:
  """The ablation or an arm; see the module's text."""
  if "paper" in arg.split(","):
    arms = {size: functools.partial(common.base, size=size) for size in _SIZES}
  else:
    arms = {
      f"d{width}": functools.partial(common.base, embed_dim=width)
      for width in _WIDTHS
    }
  return common.get(
    arg,
    title="Size of the base's U-Net",
    figure="A.13b",
    arms=arms,
    axes={"guidance_weight": (1.0, 3.0, 6.0)},
    paper_axes={"guidance_weight": common.WEIGHTS},
  )
