"""Tiny programs, and many: XLA is told not to optimise them."""

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


@pytest.fixture
def x64() -> Iterator[None]:
  with jax.enable_x64(True):
    yield
