"""A trained stage, trained on: all of its parameters, at a lower rate.

  imagen train --config=configs/finetune.py:base --workdir=runs/tuned \
    --config.start.source=runs/demo/base.safetensors \
    --config.data.name=images --config.data.paths=data/mine

The arguments are those of `configs/demo.py`, and so are stage, text and data:
the stage has to be the one that the source was trained as. What differs from
training anew:

- `start`: a stage file of `imagen export`, a workdir (its newest checkpoint) or
  one of its checkpoints. Parameters that match `start.fresh` are drawn anew, as
  for another text encoder, of 768 numbers a token:
    --config.start.fresh="conditioning/text_(norm|projection)/.*" \
    --config.stage.text_width=768 --config.text.encoder=...
- a fifth of the steps (and of the time), at a tenth of the learning rate, after
  a warm-up over a tenth of them: Adam's averages start from nothing.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config(arg: str = "base") -> ConfigDict:
  """The config of one stage; see `configs/demo.py` for `arg`."""
  config = demo.get_config(arg)
  config.start = {
    "source": "",
    "required": True,  # "" is refused
    "which": "ema",  # or raw, of a workdir
    "fresh": (),  # patterns of whole names to draw anew
  }
  config.optimizer.learning_rate /= 10
  if "runlocal" not in arg.split(","):
    config.train.steps //= 5
    config.optimizer.warmup_steps = config.train.steps // 10
  return config
