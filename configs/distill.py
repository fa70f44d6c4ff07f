"""A trained stage, taught to take half the steps: progressive distillation.

  imagen train --config=configs/distill.py:base,32,guided --workdir=runs/by32 \
    --config.start.source=runs/demo/base.safetensors
  imagen train --config=configs/distill.py:base,16 --workdir=runs/by16 \
    --config.start.source=runs/by32
  imagen train --config=configs/distill.py:base,8 --workdir=runs/by8 \
    --config.start.source=runs/by16
  imagen export --checkpoint=runs/by8 --checkpoint=runs/sr --out=runs/fast

Each run halves the steps of the one before (Salimans and Ho 2022). The first
argument is that of `configs/demo.py`, the number is the student's steps. With
`guided` the teacher is guided and thresholded as the demo samples (`distill`
has the weight), and its student no longer needs guidance: half the evaluations
at once, and at a fixed weight. Later rounds have an unguided teacher, which is
the student before.

The stage has to predict v or x0. What differs from `configs/finetune.py`:
- `distill` and the loss: the error of x0, weighted by max(snr, 1);
- no text is dropped, as nothing will ask for images without text;
- `sampler` is DDIM of as many steps, without guidance: what was taught. Nothing
  is thresholded but by clipping.
"""

from ml_collections import ConfigDict

from configs import finetune

_STEPS = 32


def get_config(arg: str = "base") -> ConfigDict:
  """The config of a student; see the module's text for `arg`."""
  words = arg.split(",")
  counts = [int(word) for word in words if word.isdecimal()]
  rest = [w for w in words if not w.isdecimal() and w != "guided"]
  config = finetune.get_config(",".join(rest))
  steps = counts[-1] if counts else _STEPS
  weight = config.sampler.guidance_weight if "guided" in words else 1.0
  config.distill = {
    "steps": 2 * steps,  # of the teacher
    "guidance_weight": weight,  # of the teacher; 1 is off
    "threshold": "dynamic" if "guided" in words else "static",
    "percentile": 99.5,
  }
  config.stage.text_drop_rate = 0.0
  config.stage.weighting = "truncated_snr"
  config.sampler.sampler = "ddim"
  config.sampler.steps = steps
  config.sampler.guidance_weight = 1.0
  config.sampler.threshold = "static"
  return config
