"""Text by mean pooling, attention pooling or cross-attention (Fig. A.13a).

  imagen evaluate ablate --only=conditioning --out=ablations
  imagen plan --config=configs/ablations/conditioning.py:mean,paper \
    --topology=v5e:16x16

Arms: mean, attention and cross; see common.py for the argument. Cross-attention
is the paper's base, which also pools by attention.
"""

import functools

from ml_collections import ConfigDict

from configs.ablations import common

_FIELDS = {
  "mean": {"feature_pooling_type": "mean", "text_cross_attn_res": ()},
  "attention": {"feature_pooling_type": "attention", "text_cross_attn_res": ()},
  "cross": {"feature_pooling_type": "attention"},
}


def get_config(arg: str = "") -> ConfigDict:
  """The ablation or an arm; see the module's text."""
  return common.get(
    arg,
    title="How text conditions the base",
    figure="A.13a",
    arms={
      name: functools.partial(common.base, fields=fields)
      for name, fields in _FIELDS.items()
    },
    axes={"guidance_weight": (1.0, 3.0, 6.0)},
    paper_axes={"guidance_weight": common.WEIGHTS},
  )
