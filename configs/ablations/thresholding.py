"""Thresholding none, static and dynamic over guidance (Fig. A.8, Section 2.3).

  imagen evaluate ablate --only=thresholding --out=ablations

Nothing is trained: the shipped demo, or `--config.weights=FOLDER`. Argument:
(none) or paper; see common.py.
"""

from ml_collections import ConfigDict

from configs.ablations import common

_KINDS = ("none", "static", "dynamic")


def get_config(arg: str = "") -> ConfigDict:
  """The ablation; see the module's text."""
  return common.get(
    arg,
    title="Thresholding of the base",
    figure="A.8",
    axes={"threshold": _KINDS, "guidance_weight": (1.0, 3.0, 8.0)},
    paper_axes={"threshold": _KINDS, "guidance_weight": common.WEIGHTS},
    fixed={"steps": 16},
  )
