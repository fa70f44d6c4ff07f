"""Parameters from a module's shapes, without compiling the module.

`jit(module.init)` compiles the random numbers of every parameter into one
program: most of a minute for a U-Net. Here the module is only traced
(`eval_shape`), each layer's own initialisers are noted on the way, and each
parameter is drawn by name, key = fold_in(key, name), from blocks of uniform
numbers of one size: a single small program for all shapes. Adding a layer
moves no other layer's draw.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from imagen_jax.core import rng, tree
from imagen_jax.core.arrays import Key, Params
from imagen_jax.nn import initializers

# (slash name, values on the host) -> the values on their devices
Place: TypeAlias = Callable[[str, np.ndarray], Array]

_BLOCK = 1 << 15

# What a layer that has no field for it means by a parameter of this name.
_DEFAULTS = {"bias": initializers.zeros, "scale": initializers.ones}


def on_device(name: str, values: np.ndarray) -> Array:
  """On the first device, whatever the name."""
  return jnp.asarray(values)


def trace(
  module: nn.Module, inputs: tuple
) -> tuple[Params, dict[str, initializers.Initializer]]:
  """Shapes of all parameters, and each one's initialiser by slash name.

  `inputs` are arrays or `ShapeDtypeStruct`s; nothing is allocated.
  """
  found: dict[str, initializers.Initializer] = {}

  def note(next_call: Callable, args: tuple, kwargs: dict, context):
    layer = context.module
    for field in ("kernel", "bias", "scale", "embedding"):
      initializer = getattr(layer, f"{field}_init", _DEFAULTS.get(field))
      if initializer is not None:
        found["/".join((*layer.path, field))] = initializer
    return next_call(*args, **kwargs)

  with nn.intercept_methods(note):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
  names = tree.flatten(shapes).keys()
  if unknown := names - found.keys():
    raise TypeError(f"no initialiser found for {sorted(unknown)}")
  return shapes, {name: found[name] for name in names}


def init_params(
  module: nn.Module, key: Key, inputs: tuple, place: Place = on_device
) -> Params:
  """Draws every parameter of `module` for `inputs` (shapes suffice).

  Each is drawn on the host, and `place(name, values)` puts it on its devices.
  """
  shapes, chosen = trace(module, inputs)

  def draw(name: str, leaf: jax.ShapeDtypeStruct) -> Array:
    initializer = chosen[name]
    if initializer is initializers.zeros:
      values = np.zeros(leaf.shape, np.float32)
    elif initializer is initializers.ones:
      values = np.ones(leaf.shape, np.float32)
    elif isinstance(initializer, initializers.FanAverageUniform):
      unit = _uniform(rng.key_for(key, name), math.prod(leaf.shape))
      values = unit.reshape(leaf.shape) * initializer.bound(leaf.shape)
    else:
      values = initializer(rng.key_for(key, name), leaf.shape, leaf.dtype)
    return place(name, np.asarray(values, leaf.dtype))

  return tree.map_named(draw, shapes)


@jax.jit
def _block(key: Key, index: int | Int[Array, ""]) -> Float[Array, "block"]:
  return jax.random.uniform(
    jax.random.fold_in(key, index), (_BLOCK,), minval=-1.0
  )


def _uniform(key: Key, size: int) -> Float[np.ndarray, "size"]:
  """`size` numbers of U(-1, 1), on the host."""
  blocks = [_block(key, i) for i in range(-(-size // _BLOCK))]
  return np.concatenate(jax.device_get(blocks))[:size]
