"""Progress of a cascade on the terminal: a bar for each stage."""

import tqdm

from imagen_jax.cascade import pipeline


class Bars:
  """A progress bar for each stage, from its first step to its last."""

  def __init__(self, cascade: pipeline.Cascade):
    self._sides = {stage.name: stage.resolution for stage in cascade.stages}
    self._stage = ""
    self._bar: tqdm.tqdm | None = None

  def __call__(self, stage: str, done: int, total: int) -> None:
    side = self._sides[stage]
    title = f"{stage} {side}x{side}"
    if self._bar is None or stage != self._stage:
      self.close()
      self._stage = stage
      self._bar = tqdm.tqdm(
        total=total, desc=f"{title}, compiling", unit="step", mininterval=0.5
      )
    elif self._bar.n == 0:
      self._bar.set_description(title, refresh=False)
    self._bar.update(done - self._bar.n)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
      self._bar = None
