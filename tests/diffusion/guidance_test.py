"""Guidance: w = 1 is off, the conventions of others, weights, dropped text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import guidance, parameterization


def pair() -> tuple[jax.Array, jax.Array]:
  keys = jax.random.split(jax.random.key(0))
  return tuple(jax.random.normal(key, (2, 4, 4, 3)) for key in keys)


def texts() -> dict[str, jax.Array]:
  text_emb = jax.random.normal(jax.random.key(1), (3, 5, 7))
  text_mask = jnp.arange(5)[None] < jnp.array([[5], [2], [1]])
  return {"text_emb": text_emb, "text_mask": text_mask}


def test_one_is_off_and_zero_unconditional_bit_for_bit():
  cond, uncond = pair()
  for combine in (guidance.combine, jax.jit(guidance.combine)):
    for one in (1.0, jnp.ones(())):
      np.testing.assert_array_equal(combine(cond, uncond, one), cond)
    np.testing.assert_array_equal(combine(cond, uncond, 0.0), uncond)


def test_the_formula_and_the_other_convention(x64):
  cond, uncond = (x.astype(jnp.float64) for x in pair())
  actual = guidance.combine(cond, uncond, 7.5)
  expected = 7.5 * np.asarray(cond) - 6.5 * np.asarray(uncond)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
  others = cond + 6.5 * (cond - uncond)
  np.testing.assert_allclose(actual, others, rtol=0, atol=1e-12)
  assert np.max(np.abs(actual - (cond + 7.5 * (cond - uncond)))) > 1.0


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_mixing_in_any_space_gives_one_x0(prediction, x64):
  cond, uncond = (x.astype(jnp.float64) for x in pair())
  z_t = jax.random.normal(jax.random.key(5), cond.shape, jnp.float64)
  logsnr = jnp.array([-3.0, 2.0])

  def x0_of(output, source):
    return parameterization.to_x0_eps(output, z_t, logsnr, prediction=source).x0

  def as_other(output):
    return parameterization.convert(
      output, z_t, logsnr, source="eps", destination=prediction
    )

  in_eps = x0_of(guidance.combine(cond, uncond, 4.0), "eps")
  mixed = guidance.combine(as_other(cond), as_other(uncond), 4.0)
  np.testing.assert_allclose(x0_of(mixed, prediction), in_eps, atol=1e-9)


def test_bfloat16_is_mixed_in_float32():
  cond, uncond = (x.astype(jnp.bfloat16) for x in pair())
  actual = guidance.combine(cond, uncond, 3.0)
  assert actual.dtype == jnp.float32
  expected = guidance.combine(
    cond.astype(jnp.float32), uncond.astype(jnp.float32), 3.0
  )
  np.testing.assert_array_equal(actual, expected)


T = np.array([1.0, 0.75, 0.5, 0.25])


def test_weights():
  np.testing.assert_array_equal(guidance.weights_constant(3, 5.0), [5.0] * 3)
  np.testing.assert_array_equal(
    guidance.weights_interval(T, 5.0, interval=(0.4, 0.8)), [1.0, 5.0, 5.0, 1.0]
  )
  np.testing.assert_array_equal(
    guidance.weights_interval(T, 5.0, interval=(0.0, 1.0)), [5.0] * 4
  )
  np.testing.assert_array_equal(
    guidance.weights_oscillating(6, 15.0, hold=2, low=1.0),
    [15.0, 15.0, 1.0, 15.0, 1.0, 15.0],
  )
  np.testing.assert_array_equal(
    guidance.weights_oscillating(3, 15.0, low=2.0), [2.0, 15.0, 2.0]
  )


def test_null_text_keeps_the_mask_and_the_rest():
  cond = texts() | {"aug_level": jnp.ones(3)}
  null = guidance.null_text(cond)
  assert np.all(np.asarray(null["text_emb"]) == 0.0)
  np.testing.assert_array_equal(null["text_mask"], cond["text_mask"])
  np.testing.assert_array_equal(null["aug_level"], cond["aug_level"])
  assert np.any(np.asarray(cond["text_emb"]) != 0.0)


def test_null_text_has_a_mask_of_its_own_where_cond_has_it():
  cond = texts()
  emb, mask = cond["text_emb"] + 1.0, ~cond["text_mask"]
  null = guidance.null_text(cond | {"null_text_emb": emb})
  np.testing.assert_array_equal(null["text_emb"], emb)
  np.testing.assert_array_equal(null["text_mask"], cond["text_mask"])
  null = guidance.null_text(
    cond | {"null_text_emb": emb, "null_text_mask": mask}
  )
  np.testing.assert_array_equal(null["text_mask"], mask)


def test_drop_text_drops_where_told_even_with_nan():
  cond = texts()
  cond["text_emb"] = cond["text_emb"].at[1].set(jnp.nan)
  dropped = guidance.drop_text(cond, jnp.array([False, True, False]))
  expected = np.asarray(cond["text_emb"]).copy()
  expected[1] = 0.0
  np.testing.assert_array_equal(dropped["text_emb"], expected)
  np.testing.assert_array_equal(dropped["text_mask"], cond["text_mask"])


def test_dropped_text_has_zero_gradient():
  cond, drop = texts(), jnp.array([True, False, True])

  def total(text_emb):
    dropped = guidance.drop_text(cond | {"text_emb": text_emb}, drop)
    return jnp.sum(jnp.sin(dropped["text_emb"]))

  gradient = np.asarray(jax.jit(jax.grad(total))(cond["text_emb"]))
  np.testing.assert_array_equal(gradient[[0, 2]], np.zeros((2, 5, 7)))
  assert np.all(gradient[1] != 0.0)


def test_bad_input():
  with pytest.raises(errors.BadInput, match="steps is 0"):
    guidance.weights_constant(0, 5.0)
  with pytest.raises(errors.BadInput, match="finite"):
    guidance.weights_constant(2, float("nan"))
  for interval in ((0.5, 0.1), (-0.1, 1.0), (0.0, 1.1)):
    with pytest.raises(errors.BadInput, match="0 <= low <= high <= 1"):
      guidance.weights_interval(T, 5.0, interval=interval)
  with pytest.raises(errors.BadInput, match="hold is -1"):
    guidance.weights_oscillating(2, 5.0, hold=-1)
