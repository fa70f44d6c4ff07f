"""Inception: agreement with PyTorch's outputs on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import tree
from imagen_jax.evals import inception_input
from imagen_jax.models import inception
from imagen_jax.weights import from_inception, rules
from tests import inception_weights

CASES = ("64", "rect")  # one image each
CONVENTIONS = ("torch_fidelity", "pytorch_fid")


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(inception_weights.GOLDEN / "io.npz"))


def weights(module):
  """Our parameters of the golden weights, in numpy."""
  shapes = from_inception.shapes_of(module)
  arrays = inception_weights.draw()
  return rules.apply(from_inception.RULES, arrays, shapes)


def images(golden):
  """[4 299 299 3]: each case in each convention."""
  return np.stack(
    [
      inception_input.prepare(
        golden[f"{case}_uint8"][0].transpose(1, 2, 0), convention
      )
      for case in CASES
      for convention in CONVENTIONS
    ]
  )


def run(golden, dtype):
  module = inception.InceptionV3(dtype=dtype)
  flat = {n: x.astype(dtype) for n, x in weights(module).items()}
  x = images(golden).astype(dtype)
  apply = jax.jit(lambda p, x: module.apply({"params": p}, x))
  return jax.tree.map(np.asarray, apply(tree.unflatten(flat), x))


def differences(golden, out):
  """Largest |ours - PyTorch's| of each output, in its standard deviations."""
  found = {}
  for i, case in enumerate(CASES):
    for name, ours in out._asdict().items():
      theirs = golden[f"{case}_{name}"][0]
      found[case, name] = np.abs(ours[2 * i] - theirs).max() / theirs.std()
    theirs = golden[f"{case}_pool_2048_pytorch_fid_style"][0]
    apart = np.abs(out.pool_2048[2 * i + 1] - theirs).max()
    found[case, "pytorch_fid"] = apart / theirs.std()
  return found


def test_equals_pytorch_in_float32(golden):
  out = run(golden, np.float32)
  found = differences(golden, out)
  assert len(found) == 14
  # Measured 6e-6.
  assert max(found.values()) < 1e-4, found
  # The conventions are not each other's.
  apart = np.abs(out.pool_2048[0] - out.pool_2048[1]).max()
  assert apart / out.pool_2048.std() > 1e-2


@pytest.mark.slow
def test_equals_pytorch_in_float64(golden):
  with jax.enable_x64(True):
    out = run(golden, np.float64)
  found = differences(golden, out)
  # The golden outputs and resized pixels are float32: measured 8e-7.
  assert max(found.values()) < 2e-6, found


def test_a_unit_is_a_convolution_and_a_norm():
  draw = np.random.default_rng(0)
  x = draw.normal(size=(2, 5, 5, 3))
  with jax.enable_x64(True):
    unit = inception.ConvNorm(4, (3, 3), 2, "VALID", np.float64)
    shapes = jax.eval_shape(unit.init, jax.random.key(0), x)["params"]
    params = {n: draw.uniform(0.5, 2, s.shape) for n, s in shapes.items()}
    params["mean"] *= 10
    y = unit.apply({"params": params}, jnp.asarray(x))
  expected = np.zeros((2, 2, 2, 4))
  for i in range(2):
    for j in range(2):
      window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
      expected[:, i, j] = np.einsum("bpqc,pqco->bo", window, params["kernel"])
  expected = (expected - params["mean"]) / np.sqrt(params["var"] + 1e-3)
  expected = np.maximum(expected * params["scale"] + params["bias"], 0)
  np.testing.assert_allclose(y, expected, atol=1e-12, rtol=0)
  assert 0 < (expected == 0).mean() < 1


def test_averages_leave_out_what_is_outside():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  y = inception.average(x)[0, :, :, 0]
  assert y[0, 0] == (0 + 1 + 3 + 4) / 4
  assert y[0, 1] == (0 + 1 + 2 + 3 + 4 + 5) / 6
  assert y[1, 1] == 4


def test_maxima_of_windows():
  x = np.random.default_rng(3).normal(size=(2, 8, 7, 3)).astype(np.float32)
  x -= 9.0  # what is outside must not count as zero
  for y, stride, edge in (
    (inception.highest(jnp.asarray(x), stride=2), 2, 0),
    (inception.highest(jnp.asarray(x), padding=1), 1, 1),
  ):
    wide = np.pad(
      x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=-np.inf
    )
    for i in range(y.shape[1]):
      for j in range(y.shape[2]):
        top, left = stride * i, stride * j
        window = wide[:, top : top + 3, left : left + 3]
        np.testing.assert_array_equal(y[:, i, j], window.max(axis=(1, 2)))
    assert y.shape[1:3] == tuple(
      (n + 2 * edge - 3) // stride + 1 for n in x.shape[1:3]
    )


def test_it_has_the_public_size():
  shapes = from_inception.shapes_of(inception.InceptionV3())
  total = sum(np.prod(shape) for shape in shapes.values())
  # 23,885,392 of the manifest's tensors without 94 counters.
  assert total == 23_885_392
  without = from_inception.shapes_of(inception.InceptionV3(classes=0))
  assert shapes.keys() - without.keys() == {"fc_kernel", "fc_bias"}
