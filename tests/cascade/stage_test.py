"""A stage hands its network what the paper says, and nothing else."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, images, rng
from imagen_jax.diffusion import sampling, schedules

B, SIDE, LOW = 4096, 4, 2


class Echo(nn.Module):
  """Returns x_lr enlarged (or z_t), so that its input can be seen."""

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
    gain = self.param("gain", nn.initializers.ones, (1, 1, 1, 1))
    if x_lr is None:
      return z_t * gain
    return jnp.repeat(jnp.repeat(x_lr, 2, axis=1), 2, axis=2) * gain


SR = stage_lib.Stage(
  name="sr",
  module=Echo(),
  resolution=SIDE,
  low_resolution=LOW,
  text_width=3,
)
PARAMS = {"gain": jnp.ones((1, 1, 1, 1))}


def batch(b=B):
  return {
    "image": jnp.zeros((b, SIDE, SIDE, 3)),
    "x_lr": jnp.full((b, LOW, LOW, 3), 0.5),
    "text_emb": jnp.ones((b, 2, 3)),
    "text_mask": jnp.ones((b, 2), bool),
  }


def test_the_network_sees_the_noised_x_lr_with_the_variance_of_theory():
  cond = stage_lib.training_cond(SR, batch(), jax.random.key(0))
  logsnr = schedules.cosine_logsnr(cond["aug_level"])
  alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
  unit = (cond["x_lr"] - 0.5 * alpha[:, None, None, None]) / sigma[
    :, None, None, None
  ]
  assert abs(float(unit.mean())) < 0.03
  assert abs(float(unit.std()) - 1) < 0.03
  levels = np.sort(np.asarray(cond["aug_level"]))
  np.testing.assert_allclose(levels, (np.arange(B) + 0.5) / B, atol=0.05)


def test_another_augmentation_key_changes_what_the_network_sees():
  one, two = (
    stage_lib.training_cond(SR, batch(4), jax.random.key(k))["x_lr"]
    for k in (0, 1)
  )
  assert float(jnp.abs(one - two).max()) > 0.1


def test_the_aug_level_stays_below_its_maximum():
  stage = dataclasses.replace(SR, max_aug_level=0.3)
  levels = stage_lib.training_cond(stage, batch(), jax.random.key(0))[
    "aug_level"
  ]
  assert 0.29 < float(levels.max()) <= 0.3


def test_text_is_dropped_at_its_rate_and_the_mask_is_kept():
  cond = stage_lib.training_cond(SR, batch(), jax.random.key(0))
  dropped = np.asarray((cond["text_emb"] == 0).all(axis=(1, 2)))
  assert abs(dropped.mean() - 0.1) < 0.02
  assert cond["text_mask"].all()


def test_residual_adds_the_enlarged_x_lr_to_the_output():
  stage = dataclasses.replace(SR, prediction="x0", residual=True)
  cond = batch(2) | {"aug_level": jnp.zeros(2)}
  args = (cond["image"], jnp.zeros(2), cond)
  plain = stage_lib.denoise_fn(SR, PARAMS)(*args)
  added = stage_lib.denoise_fn(stage, PARAMS)(*args)
  enlarged = images.upsample_bilinear(cond["x_lr"], (SIDE, SIDE))
  np.testing.assert_allclose(added, plain + enlarged, rtol=1e-6)
  assert not np.allclose(added, plain)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"residual": True}, "prediction 'x0', not 'eps'"),
    ({"max_aug_level": 1.5}, "max_aug_level is 1.5"),
    (
      {"residual": True, "prediction": "x0", "low_resolution": None},
      "needs x_lr",
    ),
  ],
)
def test_fields_that_do_not_go_together_are_refused(changes, message):
  stage_lib.check(SR)
  with pytest.raises(errors.BadInput, match=message):
    stage_lib.check(dataclasses.replace(SR, **changes))


def test_sampling_noises_x_lr_once_and_each_image_by_its_own_key():
  settings = sampling.SamplerSettings(
    steps=3, sampler="ddim", aug_level=0.25, threshold="none"
  )
  cond = {n: batch(3)[n] for n in ("text_emb", "text_mask")}
  keys = rng.keys_for(jax.random.key(0), "image", jnp.arange(3))
  stage = dataclasses.replace(SR, prediction="x0")
  x_lr = batch(3)["x_lr"]

  def sample(some):
    part = {name: value[some] for name, value in cond.items()}
    return stage_lib.sample(
      stage, PARAMS, part, keys[some], settings, x_lr=x_lr[some]
    )

  whole = sample(slice(None))
  np.testing.assert_allclose(whole[1:2], sample(slice(1, 2)), atol=1e-6)
  noised = stage_lib.sampling_cond(SR, cond, keys, 0.25, x_lr)["x_lr"]
  seen = jnp.repeat(jnp.repeat(noised, 2, axis=1), 2, axis=2)
  np.testing.assert_allclose(whole, jnp.clip(seen, -1, 1), atol=1e-5)
  assert float(jnp.abs(whole - 0.5).max()) > 0.2
