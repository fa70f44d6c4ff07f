"""Features in which the real set is a unit ball."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import pixel_features

REAL = np.random.default_rng(0).uniform(-1, 1, (40, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("side", [3, 4, 8])  # 27, 48, 192 values of an image
def test_the_real_set_is_white(side):
  found = pixel_features.fit(REAL, side=side, count=20)(REAL)
  assert found.shape == (40, 20)
  np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
  np.testing.assert_allclose(np.cov(found.T), np.eye(20), atol=1e-9)


def test_features_are_of_the_image_made_smaller():
  features = pixel_features.fit(REAL, side=4, count=20)
  twice = REAL.repeat(2, axis=1).repeat(2, axis=2)
  wide = np.concatenate([twice] * 8)  # more than are resized at a time
  apart = features(wide)[-40:] - features(REAL)
  assert np.abs(apart).max() < 0.5 * np.abs(features(REAL)).max()
  same = pixel_features.flatten(REAL, 8)
  np.testing.assert_array_equal(same, REAL.reshape(40, -1))


def test_too_few_or_equal_images_are_refused():
  with pytest.raises(errors.BadInput, match=r"40 real images.*256 axes"):
    pixel_features.fit(REAL)
  with pytest.raises(errors.BadInput, match="less than 8 axes"):
    pixel_features.fit(np.repeat(REAL[:4], 10, axis=0), side=4, count=8)
