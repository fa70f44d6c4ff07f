"""Stages that keep their x_lr, or tint it, and what is said of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.diffusion import sampler_settings
from imagen_jax.evals import sr_consistency


class Tint(nn.Module):
  """The change of the enlarged x_lr: one colour, everywhere."""

  @nn.compact
  def __call__(self, z_t, logsnr, text_emb, text_mask, x_lr, *_, **__):
    colour = self.param("colour", nn.initializers.zeros, (3,))
    return jnp.broadcast_to(colour, z_t.shape)


STAGE = stage_lib.Stage(
  name="sr",
  module=Tint(),
  resolution=16,
  text_width=2,
  low_resolution=8,
  prediction="x0",
  residual=True,
)
SETTINGS = sampler_settings.SamplerSettings(
  steps=2, sampler="ddim", threshold="static"
)


def small(b=2, contrast=0.5):
  """Smooth small images, which survive enlarging and shrinking."""
  waves = np.sin(np.linspace(0, 2, 8))[:, None] * np.ones(8)
  image = contrast * np.stack([waves, -waves, 0 * waves], axis=-1)
  return jnp.asarray(np.stack([image] * b), jnp.float32)


def measured(colour, x_lr):
  cond = {
    "text_emb": jnp.zeros((len(x_lr), 3, 2)),
    "text_mask": jnp.ones((len(x_lr), 3), bool),
    "x_lr": x_lr,
  }
  params = {"colour": jnp.asarray(colour, jnp.float32)}
  keys = jax.random.split(jax.random.key(0), len(x_lr))
  text = {name: cond[name] for name in ("text_emb", "text_mask")}
  x0 = stage_lib.sample(STAGE, params, text, keys, SETTINGS, x_lr=x_lr)
  return sr_consistency.measure(x0, cond)


def test_a_stage_that_only_enlarges_is_consistent_and_does_not_drift():
  row = measured([0, 0, 0], small())
  assert row["sr/psnr"] > 35
  assert abs(row["sr/drift"]) < 0.5


def test_a_tint_is_told_by_its_colour_and_size():
  row = measured([0.1, 0, -0.2], small())
  drift = [row[f"sr/drift_{name}"] for name in ("red", "green", "blue")]
  np.testing.assert_allclose(drift, [12.75, 0.0, -25.5], atol=0.1)
  np.testing.assert_allclose(row["sr/drift"], 12.75, atol=0.1)
  assert row["sr/psnr"] < 25


def test_the_difference_is_the_one_of_its_definition():
  draw = np.random.default_rng(0)
  x0 = draw.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  x_lr = draw.uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
  found = sr_consistency.difference(jnp.asarray(x0), jnp.asarray(x_lr))
  # Halving by a triangle two pixels wide: weights 1 3 3 1, cut at the border.
  weights = np.zeros((4, 8))
  for i in range(4):
    for j, weight in zip(
      range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1), strict=True
    ):
      if 0 <= j < 8:
        weights[i, j] = weight
  weights /= weights.sum(axis=1, keepdims=True)
  halved = np.einsum(
    "ph,bhwc,qw->bpqc", weights, x0.astype(np.float64), weights
  )
  apart = halved - x_lr
  mse = (apart**2).mean(axis=(1, 2, 3))
  cast = 127.5 * apart.mean(axis=(1, 2))
  np.testing.assert_allclose(
    found.psnr, np.mean(10 * np.log10(4 / mse)), rtol=1e-5
  )
  np.testing.assert_allclose(found.drift, cast.mean(axis=0), rtol=1e-4)
  np.testing.assert_allclose(found.drift_size, np.abs(cast).mean(), rtol=1e-4)


def test_casts_that_cancel_between_images_are_still_seen():
  x0 = jnp.stack([jnp.full((8, 8, 3), 0.1), jnp.full((8, 8, 3), -0.1)])
  found = sr_consistency.difference(x0, jnp.zeros((2, 4, 4, 3)))
  np.testing.assert_allclose(found.drift, 0.0, atol=1e-4)
  np.testing.assert_allclose(found.drift_size, 12.75, rtol=1e-4)


def test_equal_images_have_a_finite_psnr_and_jit_changes_nothing():
  x0 = jnp.zeros((1, 8, 8, 3))
  found = sr_consistency.difference(x0, jnp.zeros((1, 4, 4, 3)))
  with jax.disable_jit():
    plain = sr_consistency.difference(x0, jnp.zeros((1, 4, 4, 3)))
  assert 100 < found.psnr < 200
  np.testing.assert_allclose(found.psnr, plain.psnr, rtol=1e-6)
