"""The loss of a stage that learns from its teacher, not from the data.

Teacher and student are one stage with two sets of parameters; `diffusion/
distillation.py` has the mathematics. The images of a batch only say where the
two are compared.
"""

import dataclasses

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng
from imagen_jax.core.arrays import Cond, Key, Params
from imagen_jax.diffusion import distillation, losses


@dataclasses.dataclass(frozen=True)
class Distilling:
  """A stage's loss as `train/gradients.py` takes it: see `__call__`."""

  teacher: distillation.Teacher

  def __call__(
    self,
    stage: stage_lib.Stage,
    params: Params,
    batch: Cond,
    key: Key,
    base: Params,
  ) -> losses.Loss:
    """The loss of each example; `base` has the teacher's parameters.

    The student drops texts and noises x_lr as in training; its teacher is given
    the same.
    """
    cond = stage_lib.training_cond(stage, batch, key)
    predict = distillation.x0_fn(
      stage_lib.denoise_fn(stage, base),
      cond,
      self.teacher,
      prediction=stage.prediction,
    )
    return distillation.loss(
      stage_lib.denoise_fn(
        stage, params, dropout_key=rng.key_for(key, "dropout")
      ),
      predict,
      batch["image"],
      cond,
      rng.key_for(key, "diffusion"),
      student_steps=self.teacher.steps // 2,
      schedule=stage.schedule,
      prediction=stage.prediction,
      weighting=stage.weighting,
    )
