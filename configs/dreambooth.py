"""A few images of one subject, in adapters: DreamBooth (Ruiz et al. 2022).

  imagen sample --num_samples=100 --out=class "a 3D render of a dog"
  imagen train --config=configs/dreambooth.py:base --workdir=runs/rex \
    --config.start.source=runs/demo/base.safetensors \
    --config.data.subject.folder=rex \
    --config.data.subject.prompt="a 3D render of sks dog" \
    --config.data.subject.class_folder=class \
    --config.data.subject.class_prompt="a 3D render of a dog"

`rex` has three images or more; "sks" may be any word that means little to the
text encoder. Half of each batch is of the class, with `prior_weight` in the
loss; without a `class_folder` all is of the subject. Those who have no trained
stage of their own start at the demo's: imagen_jax/assets/demo/base.safetensors.

The argument is `base` or `sr`, and `runlocal`, joined by commas. `full` trains
all parameters instead of adapters (lora.rank 0), at a lower rate. SR stages
need none of this for many subjects; then leave the word out of their prompt.
"""

from ml_collections import ConfigDict

from configs import finetune


def get_config(arg: str = "base") -> ConfigDict:
  """The config of one stage; see the module's text for `arg`."""
  modes = arg.split(",")
  config = finetune.get_config(",".join(m for m in modes if m != "full"))
  config.data.name = "subject"
  config.data.subject = {
    "folder": "",
    "prompt": "a photo of sks dog",
    "class_folder": "",  # "" is the subject alone
    "class_prompt": "a photo of a dog",
    "prior_weight": 1.0,  # of the class in the loss; that of the subject is 1
  }
  full = "full" in modes
  config.lora.rank = 0 if full else 16
  config.optimizer.update({"learning_rate": 1e-5 if full else 1e-3})
  config.optimizer.decay = "constant"
  if "runlocal" not in modes:
    config.optimizer.warmup_steps = 20
    config.train.update(
      {"batch_size": 8, "steps": 400, "ema_decay": 0.99, "log_every": 10}
    )
    config.preview.every = 100
  return config
