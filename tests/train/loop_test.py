"""The loop stops, resumes and refuses as it promises."""

import dataclasses
import itertools
import os
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest
from etils import epath

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, tree
from imagen_jax.train import loop, optimizers
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


class Pointwise(nn.Module):
  """The smallest network of the stages' signature: compiles in no time."""

  width: int = 4

  @nn.compact
  def __call__(
    self,
    z_t,
    logsnr,
    text_emb,
    text_mask,
    x_lr=None,
    aug_level=None,
    train=False,
  ):
    pooled = nn.Dense(3, name="text")(text_emb.mean(axis=1))[:, None, None]
    h = nn.swish(nn.Dense(self.width, name="hidden")(z_t + pooled))
    return nn.Dense(3, name="head")(h) + logsnr[:, None, None, None]


STAGE = stage_lib.Stage(
  name="base", module=Pointwise(), resolution=16, text_width=8
)
RULE = optimizers.make("adam", lambda _: 1e-2)
STEP = step_lib.make_train_step(STAGE, RULE, ema_decay=0.9)


@dataclasses.dataclass(frozen=True)
class Noise:
  """Random batches by step; `disturb` is called with the step first."""

  disturb: object = lambda step, batch: batch
  fingerprint: str = "noise"

  def batches(self, start):
    for step in itertools.count(start):
      draw = np.random.default_rng(step)
      batch = {
        "image": draw.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32),
        "text_emb": draw.normal(size=(2, 4, 8)).astype(np.float32),
        "text_mask": np.ones((2, 4), bool),
      }
      yield self.disturb(step, batch)


def train(workdir, steps, source=None, stage=STAGE, evaluators=()):
  return loop.train(
    make_state=lambda: state_lib.create(
      stage_lib.init(stage, jax.random.key(1)), RULE
    ),
    abstract_state=state_lib.abstract(stage_lib.param_shapes(stage), RULE),
    train_step=STEP,
    source=source or Noise(),
    prepare=lambda batch: batch,
    key=jax.random.key(2),
    workdir=epath.Path(workdir),
    options=loop.Options(
      steps=steps, batch_size=2, log_every=1, checkpoint_every=2
    ),
    evaluators=evaluators,
  )


def logged(workdir):
  return [row["step"] for row in files.read_jsonl(workdir / "metrics.jsonl")]


def test_a_run_in_two_halves_is_the_run_in_one_to_the_bit(tmp_path):
  whole = train(tmp_path / "whole", 4)
  train(tmp_path / "halves", 2)
  resumed = train(tmp_path / "halves", 4)
  other = train(tmp_path / "other", 3)
  pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True)
  assert all(np.array_equal(a, b) for a, b in pairs)
  assert logged(tmp_path / "halves") == [1, 2, 3, 4]
  different = zip(
    jax.tree.leaves(whole.params), jax.tree.leaves(other.params), strict=True
  )
  assert not all(np.array_equal(a, b) for a, b in different)


def test_steps_logged_after_the_checkpoint_are_logged_once(tmp_path):
  train(tmp_path, 2)
  files.append_jsonl(tmp_path / "metrics.jsonl", {"step": 3, "loss": 0.0})
  train(tmp_path, 4)
  assert logged(tmp_path) == [1, 2, 3, 4]


def test_a_nan_in_a_batch_stops_the_run_and_never_reaches_the_state(tmp_path):
  def poison(step, batch):
    if step == 2:
      batch["image"][0, 0, 0, 0] = np.nan
    return batch

  with pytest.raises(errors.NonFinite, match=r"not finite at step 3"):
    train(tmp_path, 4, Noise(poison))
  good = train(tmp_path, 2)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))
  assert int(good.step) == 2


def test_sigterm_commits_a_checkpoint_and_asks_to_be_started_again(tmp_path):
  def stop(step, batch):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  with pytest.raises(errors.StopRequested, match=r"step 3 of 9"):
    train(tmp_path, 9, Noise(stop))
  assert errors.StopRequested.exit_code == 42
  events = [row["event"] for row in files.read_jsonl(tmp_path / "events.jsonl")]
  assert events[-2:] == ["save", "preempt"]
  straight = train(tmp_path / "straight", 4)
  resumed = train(tmp_path, 4)
  np.testing.assert_array_equal(
    tree.flatten(resumed.params)["head/kernel"],
    tree.flatten(straight.params)["head/kernel"],
  )


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
  train(tmp_path, 2)
  wider = dataclasses.replace(STAGE, module=Pointwise(width=5))
  with pytest.raises(errors.BadInput, match=r"differ.*hidden/bias: \(4,\)"):
    train(tmp_path, 4, stage=wider)


def test_evaluators_are_called_at_their_steps_and_logged(tmp_path):
  @dataclasses.dataclass
  class Counter:
    every: int = 2

    def __call__(self, state, step, workdir):
      return {"seen": float(state.step)}

  train(tmp_path, 3, evaluators=[Counter()])
  rows = files.read_jsonl(tmp_path / "metrics.jsonl")
  assert [(r["step"], r["seen"]) for r in rows if "seen" in r] == [
    (2, 2.0),
    (3, 3.0),
  ]
