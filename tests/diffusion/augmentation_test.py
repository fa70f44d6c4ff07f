"""Noise conditioning augmentation: levels, none at 0, per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import augmentation


def draw(seed: int, b: int = 3) -> jax.Array:
  """Float64 under the x64 fixture, else float32."""
  normal = np.random.default_rng(seed).normal(size=(b, 8, 8, 3))
  return jnp.asarray(normal, float)


def test_level_zero_is_the_image_itself():
  x_lr = draw(0)
  noised = augmentation.noise_x_lr(x_lr, jnp.zeros(3), draw(1))
  np.testing.assert_array_equal(noised, x_lr)


def test_level_one_is_noise():
  eps = draw(1)
  noised = augmentation.noise_x_lr(draw(0), jnp.ones(3), eps)
  np.testing.assert_allclose(noised, eps, rtol=0, atol=3e-4)


def test_the_noise_of_the_reference():
  levels = jnp.array([0.1, 0.2, 0.25, 0.3])
  noised = augmentation.noise_x_lr(
    jnp.zeros((4, 1, 1, 1)), levels, jnp.ones((4, 1, 1, 1))
  )
  sigma = [0.1565, 0.3090, 0.3827, 0.4540]
  np.testing.assert_allclose(noised.ravel(), sigma, rtol=0, atol=6e-5)


def test_the_formula_again_in_float64(x64):
  levels = np.array([0.05, 0.5, 0.95])
  start = np.arctan(np.exp(-10.0))
  angle = (np.pi / 2 - 2 * start) * levels + start
  alpha, sigma = (f(angle).reshape(3, 1, 1, 1) for f in (np.cos, np.sin))
  x_lr, eps = (draw(seed) for seed in (0, 1))
  noised = augmentation.noise_x_lr(x_lr, jnp.asarray(levels), eps)
  expected = alpha * np.asarray(x_lr) + sigma * np.asarray(eps)
  np.testing.assert_allclose(noised, expected, rtol=0, atol=1e-9)


def test_an_example_does_not_depend_on_its_batch():
  levels = jnp.array([0.0, 0.4, 1.0])
  noise = jax.jit(augmentation.noise_x_lr)
  together = noise(draw(0), levels, draw(1))
  alone = noise(draw(0)[1:2], levels[1:2], draw(1)[1:2])
  np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-6)


def test_gradients_are_finite_at_the_ends():
  def total(x_lr, levels):
    return jnp.sum(jnp.square(augmentation.noise_x_lr(x_lr, levels, draw(1))))

  levels = jnp.array([0.0, 0.5, 1.0])
  gradients = jax.jit(jax.grad(total, (0, 1)))(draw(0), levels)
  assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("level", [-0.1, 1.5])
def test_level_outside(level):
  with pytest.raises(errors.BadInput, match=r"aug_level is .* in \[0, 1\]"):
    augmentation.noise_x_lr(draw(0), jnp.array([0.0, 0.1, level]), draw(1))
