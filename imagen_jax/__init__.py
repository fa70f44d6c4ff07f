"""Imagen in JAX and Flax: text to images by a cascade of diffusion models.

  import imagen_jax as ij
  cascade, params = ij.load_cascade()
  images = ij.sample(cascade, params, prompts, jax.random.key(0))

Names are looked up when they are used: importing the package imports nothing.
"""

# Where the names of the facade are.
_FACADE = {
  "load_cascade": ("imagen_jax.api", "load_cascade"),
  "sample": ("imagen_jax.api", "sample"),
  "__version__": ("imagen_jax.version", "VERSION"),
}


def __getattr__(name: str):
  if name not in _FACADE:
    raise AttributeError(f"module 'imagen_jax' has no attribute {name!r}")
  import importlib

  module, attribute = _FACADE[name]
  return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
  return sorted([*globals(), *_FACADE])
