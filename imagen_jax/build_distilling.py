"""Distillation from its config: the loss of a student and its teacher.

`config.distill` is of `configs/distill.py`; other configs have none. What
`config.start` names is the teacher, and what the student starts as.
"""

from imagen_jax import build
from imagen_jax.cascade import distilling
from imagen_jax.core import errors
from imagen_jax.diffusion import distillation


def is_on(config: build.Config) -> bool:
  """Whether the run has a teacher."""
  return "distill" in config


def loss(config: build.Config) -> distilling.Distilling | None:
  """What takes the place of the training loss; None without a teacher.

  Raises BadInput for what does not go together.
  """
  if not is_on(config):
    return None
  fields = build.plain(config["distill"])
  teacher = build.construct(distillation.Teacher, fields, "distill")
  distillation.check(teacher)
  half, sampler = teacher.steps // 2, config["sampler"]
  if sampler["steps"] != half or sampler["sampler"] != "ddim":
    raise errors.BadInput(
      f"sampler is {sampler['sampler']} of {sampler['steps']} steps; the"
      f" student of a teacher of {teacher.steps} takes {half} of ddim: set"
      f" --config.sampler.sampler=ddim --config.sampler.steps={half}."
    )
  if config["stage"]["prediction"] == "eps":
    raise errors.BadInput(
      "stage.prediction is eps, whose x0 at t = 1 is divided by an alpha near"
      " 0; a student predicts v or x0: train the stage on with"
      " --config.stage.prediction=v (configs/finetune.py) first."
    )
  if config.get("lora", {}).get("rank", 0):
    raise errors.BadInput(
      "lora.rank is above 0, but a student trains all parameters; set"
      " --config.lora.rank=0."
    )
  if config["train"]["micro_batches"] != 1:
    raise errors.BadInput(
      f"train.micro_batches is {config['train']['micro_batches']}, but this"
      " loss is of whole batches; set --config.train.micro_batches=1."
    )
  return distilling.Distilling(teacher)
