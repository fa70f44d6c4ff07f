"""Guidance of the base (Fig. A.8, Section 2.2): alignment against fidelity.

  imagen evaluate ablate --only=guidance --out=ablations

Nothing is trained: the shipped demo, or `--config.weights=FOLDER`. Argument:
(none) or paper; see common.py.
"""

from ml_collections import ConfigDict

from configs.ablations import common


def get_config(arg: str = "") -> ConfigDict:
  """The ablation; see the module's text."""
  return common.get(
    arg,
    title="Guidance of the base",
    figure="A.8",
    axes={"guidance_weight": (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)},
    paper_axes={"guidance_weight": common.WEIGHTS},
    fixed={"steps": 16},
  )
