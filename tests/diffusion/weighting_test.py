"""Loss weights: exactly 1 where they match, one loss in every space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.diffusion import weighting

LOGSNR = np.linspace(-20.0, 20.0, 81)
ON_X0 = {
  "eps": np.exp(LOGSNR),
  "x0": np.ones_like(LOGSNR),
  "v": np.exp(LOGSNR) + 1.0,
  "truncated_snr": np.maximum(np.exp(LOGSNR), 1.0),
  "min_snr": np.minimum(np.exp(LOGSNR), 5.0),
}
PER_X0 = {name: ON_X0[name] for name in ("eps", "x0", "v")}


@pytest.mark.parametrize("name", PER_X0)
def test_exactly_one_where_weighting_and_prediction_agree(name):
  weight = weighting.on_output(name, name, jnp.asarray(LOGSNR, jnp.float32))
  np.testing.assert_array_equal(weight, np.ones_like(LOGSNR))


@pytest.mark.parametrize("name", ON_X0)
def test_weights_again_in_float64(name, x64):
  logsnr = jnp.asarray(LOGSNR)
  np.testing.assert_allclose(
    weighting.on_x0(name, logsnr), ON_X0[name], rtol=1e-9
  )
  for prediction, per_x0 in PER_X0.items():
    weight = weighting.on_output(name, prediction, logsnr)
    np.testing.assert_allclose(weight, ON_X0[name] / per_x0, rtol=1e-9)


def test_min_snr_on_eps_and_v(x64):
  # min(snr, 5) / snr on the eps loss, min(snr, 5) / (snr + 1) on the v loss.
  logsnr = jnp.log(jnp.array([20.0]))
  eps = weighting.on_output("min_snr", "eps", logsnr)
  v = weighting.on_output("min_snr", "v", logsnr)
  np.testing.assert_allclose([eps[0], v[0]], [0.25, 5.0 / 21.0], rtol=1e-12)


@pytest.mark.parametrize("name", ON_X0)
@pytest.mark.parametrize("prediction", PER_X0)
def test_finite_at_the_ends_with_gradient(name, prediction):
  ends = jnp.array([-25.0, 25.0])

  def total(logsnr):
    return jnp.sum(weighting.on_output(name, prediction, logsnr))

  value, gradient = jax.jit(jax.value_and_grad(total))(ends)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))


def test_bfloat16_is_promoted():
  weight = weighting.on_x0("v", jnp.zeros(2, jnp.bfloat16))
  assert weight.dtype == jnp.float32


def test_unknown_names_list_the_alternatives():
  with pytest.raises(errors.BadInput, match="eps, x0, v, truncated_snr, min"):
    weighting.check_weighting("p2")
