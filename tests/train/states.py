"""Small training states whose every value says what step they are of."""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.core import tree
from imagen_jax.train import optimizers
from imagen_jax.train import state as state_lib

RULE = optimizers.make("adam", lambda _: 1e-2)


def at(step, width=64):
  """The state of `step`: all leaves are a function of it."""
  params = {
    "head": {
      "kernel": step + jnp.arange(8.0 * width).reshape(8, width),
      "bias": jnp.full((width,), 0.5 + step),
    }
  }
  state = state_lib.create(params, RULE)
  return state.replace(step=jnp.int32(step))


def abstract(width=64):
  return jax.eval_shape(lambda: at(0, width))


def equal(a, b):
  """Whether two states have the same bytes, leaf by leaf."""
  left, right = tree.flatten(a), tree.flatten(b)
  return left.keys() == right.keys() and all(
    np.asarray(left[name]).tobytes() == np.asarray(right[name]).tobytes()
    for name in left
  )
