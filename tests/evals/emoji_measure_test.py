"""The scores tell real images from others, and from each other's."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import emoji
from imagen_jax.evals import emoji_measure

COUNT = 24


@pytest.fixture(scope="module")
def objects():
  return emoji.open_emoji()


@pytest.fixture(scope="module")
def pairs(objects):
  return emoji_measure.choose_pairs(objects, COUNT)


@pytest.fixture(scope="module")
def measure(objects, pairs):
  return emoji_measure.make(objects, pairs, resolution=16)


@pytest.fixture(scope="module")
def real(objects, pairs):
  return emoji_measure.real_images(objects, pairs, 16)


def test_pairs_are_held_out_and_fixed_by_the_seed(objects, pairs):
  assert all(objects.held_out(p.index, p.colour) for p in pairs)
  assert len(set(pairs)) == COUNT
  assert emoji_measure.choose_pairs(objects, COUNT) == pairs
  assert emoji_measure.choose_pairs(objects, COUNT, seed=1) != pairs
  with pytest.raises(errors.BadInput, match="choose 2 to"):
    emoji_measure.choose_pairs(objects, 100_000)


def test_real_images_score_as_real(measure, pairs, real):
  found = measure(real, [pair.caption for pair in pairs])
  assert found["colour"].value == 1 and found["object"].value == 1
  low, high = found["distance"].low, found["distance"].high
  assert low < 0 < high


def test_images_of_other_prompts_score_at_chance(measure, pairs, real):
  prompts = [pair.caption for pair in pairs]
  found = measure(np.roll(real, 1, axis=0), prompts)
  assert found["colour"].value < 0.4
  assert 0.25 < found["object"].value < 0.75
  assert found["colour"].low < found["colour"].value < found["colour"].high


def test_blur_and_noise_are_far_from_real(measure, pairs, real):
  prompts = [pair.caption for pair in pairs]
  noise = np.random.default_rng(0).normal(size=real.shape)
  noisy = np.clip(real + 0.3 * noise, -1, 1).astype(np.float32)
  flat = np.broadcast_to(real[:, :1, :1], real.shape)
  at = measure(real, prompts)["distance"]
  for worse in (noisy, flat):
    found = measure(worse, prompts)
    assert found["distance"].low > at.high
    assert found["colour"].value > 0.9
  assert measure(noisy, prompts)["object"].value > 0.9
