"""Under tests/diffusion dtypes are strict, and `x64` turns on float64.

The programs here are tiny and many, so XLA is told not to optimise them: it
halves the time of these tests.
"""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compiles() -> Iterator[None]:
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


@pytest.fixture(autouse=True)
def strict_dtypes() -> Iterator[None]:
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def x64() -> Iterator[None]:
  with jax.enable_x64(True):
    yield
