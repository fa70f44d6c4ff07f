"""Promotion to float32 or better."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.core import precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_becomes_float32(dtype):
  with jax.numpy_dtype_promotion("strict"):
    arrays = jnp.zeros(2, dtype), jnp.zeros((), jnp.float32)
    promoted = precision.at_least_float32(*arrays)
  assert [x.dtype for x in promoted] == [jnp.float32] * 2
  assert [x.shape for x in promoted] == [(2,), ()]


def test_one_float64_makes_all_float64():
  with jax.enable_x64(True):
    arrays = jnp.zeros(2, jnp.bfloat16), jnp.zeros(3, jnp.float64)
    promoted = precision.at_least_float32(*arrays)
    assert [x.dtype for x in promoted] == [jnp.float64] * 2
