"""A run that is cut anywhere ends in the same bits as one that is not."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.train import loop, optimizers, sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from tests.train import tiny_run

STEPS = 11  # so that there are ten places to cut


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Random pictures by step, with x_lr."""

  stage: stage_lib.Stage
  fingerprint: str = "pictures"

  def batches(self, start):
    side, low = self.stage.resolution, self.stage.low_resolution
    for step in range(start, STEPS):
      draw = np.random.default_rng(step)
      batch = {
        "image": draw.uniform(-1, 1, (2, side, side, 3)).astype(np.float32),
        "text_emb": draw.normal(size=(2, 4, 8)).astype(np.float32),
        "text_mask": np.ones((2, 4), bool),
      }
      if low:
        x_lr = draw.uniform(-1, 1, (2, low, low, 3))
        batch["x_lr"] = x_lr.astype(np.float32)
      yield batch


@pytest.mark.parametrize(
  ("stage", "name"),
  [(tiny_run.STAGE, "adafactor"), (tiny_run.SR, "adam")],
  ids=["base", "sr"],
)
def test_ten_cuts_of_both_stages_end_in_the_same_bits(tmp_path, stage, name):
  rule = optimizers.make(name, lambda _: 1e-2)
  params = stage_lib.init(stage, jax.random.key(1))
  shapes = jax.eval_shape(lambda: params)
  # Traced and compiled once for all runs.
  step = jax.jit(
    step_lib.make_train_step(stage, rule, ema_decay=0.99, spike_deviations=6.0)
  )

  mesh = tiny_run.one_device()
  abstract = state_lib.abstract(shapes, rule)
  shardings = sharding.state_shardings(abstract, shapes, mesh)

  def train(workdir, checkpoint_every):
    state = loop.train(
      make_state=lambda: sharding.put(
        state_lib.create(params, rule), shardings
      ),
      abstract_state=sharding.abstract(abstract, shardings),
      train_step=step,
      source=Pictures(stage),
      prepare=lambda batch: batch,
      key=jax.random.key(2),
      workdir=epath.Path(workdir),
      options=loop.Options(
        steps=STEPS,
        batch_size=2,
        checkpoint_every=checkpoint_every,
        keep=STEPS,
      ),
    )
    return tiny_run.digest(state)

  whole = train(tmp_path / "whole", 1)
  ends = []
  for cut in range(1, STEPS):
    folder = tmp_path / f"cut_{cut}" / "checkpoints"
    folder.mkdir(parents=True)
    saved = tmp_path / "whole" / "checkpoints"
    shutil.copytree(saved / str(cut), folder / str(cut))
    shutil.copy(saved / f"{cut}.manifest.json", folder)
    ends.append(train(folder.parent, STEPS))
  assert ends == [whole] * (STEPS - 1)
  # A state that is compiled for anew would make each start of a run slow.
  assert step._cache_size() == 1


POINTS = {
  "loader": 4,
  "after_step": 5,
  "eval": 1,
  "before_save": 2,
  "after_save": 2,
  "save.before_commit": 2,
  "save.before_manifest": 2,
  "manifest.before_rename": 2,
  "save.after_manifest": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 3, 6])
def test_a_kill_at_each_point_changes_no_bit(tmp_path, first):
  given = {"steps": 6, "look_every": 3}

  def start(workdir, **environment):
    return tiny_run.start(given | {"workdir": workdir}, **environment)

  points = list(POINTS.items())[first : first + 3]
  killed = [
    start(tmp_path / point, IMAGEN_FAULT=f"kill@{point}:{time}")
    for point, time in points
  ]
  assert [(run.communicate(), run.returncode)[1] for run in killed] == [-9] * 3
  # All in processes alike: another number of devices may round otherwise.
  again = [start(tmp_path / name) for name in ("whole", *dict(points))]
  assert [(run.communicate(), run.returncode)[1] for run in again] == [0] * 4
  whole = (tmp_path / "whole" / "digest.txt").read_text()
  for point, _ in points:
    workdir = tmp_path / point
    assert (workdir / "digest.txt").read_text() == whole, point
    steps = [row["step"] for row in tiny_run.rows(workdir)]
    assert steps == [1, 2, 3, 4, 5, 6], point
