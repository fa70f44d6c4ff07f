"""Text encoders by kind and size (Figs. 4a, A.5a, A.6).

  imagen evaluate ablate --only=text_encoder --out=ablations
  imagen plan --config=configs/ablations/text_encoder.py:t5_xl,paper \
    --topology=v5e:16x16

Arms with paper: t5_small to t5_xxl, bert_base, bert_large and clip, each on the
300M base; point `text.encoder` to the folder of its weights. Without: MiniLM
cut to its first layers, as size; minilm_0 has words and places alone, as kind.
See common.py for the argument.
"""

import functools

from ml_collections import ConfigDict

from configs.ablations import common

_PAPER = {
  "t5_small": ("t5_v1_1_small", 512),
  "t5_base": ("t5_v1_1_base", 768),
  "t5_large": ("t5_v1_1_large", 1024),
  "t5_xl": ("t5_v1_1_xl", 2048),
  "t5_xxl": ("t5_v1_1_xxl", 4096),
  "bert_base": ("bert_base", 768),
  "bert_large": ("bert_large", 1024),
  "clip": ("clip_vit_l_14", 768),
}
_DEMO = {
  "minilm_0": ("minilm@0", 384),
  "minilm_2": ("minilm@2", 384),
  "minilm_6": ("minilm", 384),
}
_LENGTHS = {"clip": 77}  # tokens; the paper's 128 for all others


def get_config(arg: str = "") -> ConfigDict:
  """The ablation or an arm; see the module's text."""
  encoders = _PAPER if "paper" in arg.split(",") else _DEMO
  return common.get(
    arg,
    title="Text encoder",
    figure="A.5a",
    arms={name: functools.partial(_arm, name=name) for name in encoders},
    axes={"guidance_weight": (1.0, 3.0, 6.0)},
    paper_axes={"guidance_weight": common.WEIGHTS},
  )


def _arm(at_scale: bool, *, name: str) -> ConfigDict:
  config = common.base(at_scale)
  encoder, width = (_PAPER if at_scale else _DEMO)[name]
  config.text.encoder = encoder
  config.text.penultimate = name == "clip"  # Appendix D.1
  config.text.max_length = _LENGTHS.get(name, config.text.max_length)
  config.stage.text_width = width
  return config
