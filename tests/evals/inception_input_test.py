"""What Inception reads: the three conventions are the tools' own."""

import numpy as np
import PIL.Image
import pytest

from imagen_jax.core import errors
from imagen_jax.evals import inception_input
from tests import inception_weights

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("convention", inception_input.CONVENTIONS)
def test_an_image_of_the_right_size_is_only_scaled(convention):
  pixels = DRAW.integers(0, 256, (299, 299, 3), dtype=np.uint8)
  x = inception_input.prepare(pixels, convention)
  expected = pixels / 127.5 - 1
  if convention != "pytorch_fid":
    expected = (pixels - 128.0) / 128
  np.testing.assert_allclose(x, expected, atol=2e-7, rtol=0)
  assert x.dtype == np.float32


@pytest.mark.parametrize("convention", inception_input.CONVENTIONS)
def test_a_flat_image_stays_flat(convention):
  pixels = np.full((50, 600, 3), 200, np.uint8)
  x = inception_input.prepare(pixels, convention)
  np.testing.assert_allclose(x, x[0, 0, 0], atol=1e-6)


def test_only_clean_fid_averages_when_it_makes_smaller():
  # Every other column black: all of the picture is grey from afar.
  pixels = np.zeros((598, 897, 3), np.uint8)
  pixels[:, ::2] = 255
  spread = {
    convention: inception_input.prepare(pixels, convention).std()
    for convention in inception_input.CONVENTIONS
  }
  assert spread["clean_fid"] < 0.2
  assert spread["torch_fidelity"] > 0.4


@pytest.mark.parametrize(
  ("half_pixel", "name"), [(False, "tf1"), (True, "pytorch")]
)
def test_equals_the_tools(half_pixel, name):
  golden = np.load(inception_weights.GOLDEN / "io.npz")
  pixels = golden["64_uint8"][0].transpose(1, 2, 0)
  ours, other = (
    inception_input.bilinear(pixels, (299, 299), half_pixel=half)[::13, ::13]
    for half in (half_pixel, not half_pixel)
  )
  theirs = golden[f"64_resized_{name}"][0].transpose(1, 2, 0)
  # PyTorch's weights are in float32; the levels are 0..255.
  np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=0)
  assert np.abs(other - theirs).max() > 10


@pytest.mark.parametrize("half_pixel", [False, True])
def test_bilinear_from_its_definition(half_pixel):
  resized = inception_input.bilinear(PIXELS, (70, 17), half_pixel=half_pixel)

  def pixel(old, new, i):
    at = (i + 0.5) * old / new - 0.5 if half_pixel else i * old / new
    at = min(max(at, 0), old - 1)
    low = int(np.floor(at))
    return low, min(low + 1, old - 1), at - low

  expected = np.zeros((70, 17, 3))
  for i in range(70):
    for j in range(17):
      a, b, y = pixel(40, 70, i)
      c, d, x = pixel(30, 17, j)
      expected[i, j] = (1 - y) * (
        (1 - x) * PIXELS[a, c] + x * PIXELS[a, d].astype(float)
      ) + y * ((1 - x) * PIXELS[b, c] + x * PIXELS[b, d].astype(float))
  np.testing.assert_allclose(resized, expected, atol=1e-4, rtol=0)


def test_clean_fid_is_pillow_on_float_channels_and_clipped():
  x = inception_input.prepare(PIXELS, "clean_fid")
  channel = PIL.Image.fromarray(PIXELS[:, :, 1].astype(np.float32))
  resized = channel.resize((299, 299), PIL.Image.Resampling.BICUBIC)
  expected = np.asarray(resized)
  assert expected.max() > 255  # bicubic overshoots
  expected = (np.clip(expected, 0, 255) - 128) / 128
  np.testing.assert_allclose(x[:, :, 1], expected, atol=1e-6, rtol=0)


def test_an_unknown_convention_is_refused():
  with pytest.raises(errors.BadInput, match="'tf2'; known are clean_fid"):
    inception_input.check("tf2")
