"""Tensors: known before they are read."""

import numpy as np

from imagen_jax.weights import tensors


def test_arrays_seen_as_tensors():
  arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(1, np.int32)}
  seen = tensors.of(arrays)
  assert seen.keys() == arrays.keys()
  for name, tensor in seen.items():
    assert (tensor.shape, tensor.dtype) == (
      arrays[name].shape,
      arrays[name].dtype,
    )
    assert tensor.read() is arrays[name]
