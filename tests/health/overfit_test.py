"""A network that can learn crosses the line, and one that cannot does not."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors
from imagen_jax.health import overfit
from imagen_jax.train import optimizers


class ByText(nn.Module):
  """A colour from the text; an output of zero at first, as of the real ones."""

  uses_text: bool = True

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
    text = text_emb.mean(axis=1) * self.uses_text
    h = nn.swish(nn.Dense(32, name="hidden")(text))
    zero = nn.initializers.zeros
    colour = nn.Dense(3, kernel_init=zero, name="head")(h)
    return jnp.broadcast_to(colour[:, None, None], z_t.shape)


def stage(**fields):
  return stage_lib.Stage(
    name="base",
    module=ByText(**fields),
    resolution=8,
    text_width=8,
    prediction="x0",
    weighting="x0",
    text_drop_rate=0.0,
  )


def batch():
  """Images of one colour each, which the text tells."""
  draw = np.random.default_rng(0)
  colours = draw.choice([-0.8, 0.8], (4, 1, 1, 3)).astype(np.float32)
  return {
    "image": jnp.asarray(np.tile(colours, (1, 8, 8, 1))),
    "text_emb": jnp.asarray(draw.normal(size=(4, 5, 8)), jnp.float32),
    "text_mask": jnp.ones((4, 5), bool),
  }


def run(stage, rate=1e-2, steps=200, data=None):
  told = []
  outcome = overfit.run(
    stage,
    optimizers.make("adam", lambda _: rate),
    batch() if data is None else data,
    jax.random.key(0),
    steps=steps,
    progress=lambda step, loss: told.append(step),
  )
  assert told == list(range(1, outcome.steps + 1))
  return outcome


def test_a_stage_that_learns_stops_at_the_line():
  outcome = run(stage())
  assert outcome.images == 4 and outcome.steps < 200
  assert outcome.line == 0.5 * outcome.first
  assert outcome.first == pytest.approx(0.64, rel=1e-5)  # of an output of zero
  assert outcome.last < outcome.line
  found = overfit.judge(outcome)
  assert found.level == "ok" and found.said.startswith("learns")


@pytest.mark.parametrize(
  ("network", "rate"), [({}, 0.0), ({"uses_text": False}, 1e-2)]
)
def test_a_stage_that_cannot_does_not_learn(network, rate):
  outcome = run(stage(**network), rate, steps=25)
  assert outcome.steps == 25
  found = overfit.judge(outcome)
  assert found.level == "problem" and found.error is errors.NonFinite
  assert "does not learn" in found.said and "learning_rate" in found.remedy


def test_what_is_not_finite_ends_at_once():
  data = batch()
  data["image"] = data["image"].at[0, 0, 0, 0].set(jnp.nan)
  outcome = run(stage(), data=data)
  assert outcome.steps == 0
  assert overfit.judge(outcome).error is errors.NonFinite


def test_the_lines_are_below_what_no_image_is_needed_for():
  """The best scaling of z_t, of the first loss, at the demo's deviation 0.5."""
  alpha2 = np.cos(math.pi / 2 * (np.arange(1000) + 0.5) / 1000) ** 2
  sigma2, s2 = 1 - alpha2, 0.25
  z2 = alpha2 * s2 + sigma2
  left = {
    "v": (s2 / z2).mean() / (alpha2 + sigma2 * s2).mean(),
    "x0": (sigma2 * s2 / z2).mean() / s2,
    "eps": (alpha2 * s2 / z2).mean(),
  }
  for name, share in left.items():
    assert overfit.LINES.get(name, 0.5) < share, name
