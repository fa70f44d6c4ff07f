"""Inputs and parameters from numpy, nowhere zero.

Output layers start at zero in training, which would hide every mistake before
them; and a network's own initialisation takes longer to compile than to use.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0, dtype=np.float32):
  """N(0, 1)."""
  draw = np.random.default_rng(seed)
  return jnp.asarray(draw.standard_normal(shape), dtype)


def params(module: nn.Module, *inputs, seed=0, dtype=np.float32):
  """Every parameter from N(0, 0.3^2); 1 is added to scales."""
  draw = np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]

  def one(path, leaf):
    values = 0.3 * draw.standard_normal(leaf.shape)
    return jnp.asarray(values + (path[-1].key == "scale"), dtype)

  return jax.tree_util.tree_map_with_path(one, shapes)


def mask(*lengths, total):
  """[b l]: the first `lengths[b]` tokens are real."""
  return jnp.arange(total)[None] < jnp.asarray(lengths)[:, None]
