"""What the network predicts: x0, eps or v, and how each becomes the others.

  z_t = alpha x0 + sigma eps        v = alpha eps - sigma x0

  from eps   x0 = (z_t - sigma eps) / alpha
  from x0    eps = (z_t - alpha x0) / sigma
  from v     x0 = alpha z_t - sigma v,  eps = sigma z_t + alpha v

Imagen predicts eps (Appendix A); Imagen Video and distillation v. A prediction
read as itself is returned as it is, bit for bit.
"""

from typing import Literal, NamedTuple, get_args

from jaxtyping import Array, Float

from imagen_jax.core import errors, precision, shapes
from imagen_jax.core.arrays import Image, Logsnr
from imagen_jax.diffusion import schedules

Prediction = Literal["x0", "eps", "v"]


class X0Eps(NamedTuple):
  """The pair that explains z_t = alpha x0 + sigma eps."""

  x0: Image
  eps: Image


def check_prediction(prediction: str) -> None:
  """Raises BadInput, with the alternatives, for an unknown name."""
  names = get_args(Prediction)
  if prediction not in names:
    raise errors.BadInput(
      f"prediction {prediction!r} is unknown; use one of {', '.join(names)}."
    )


def alpha_sigma(
  logsnr: Logsnr,
) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
  """(alpha, sigma) of each example, to multiply images with."""
  alpha, sigma = schedules.logsnr_to_alpha_sigma(logsnr)
  return shapes.bcast_right(alpha, 4), shapes.bcast_right(sigma, 4)


def to_x0_eps(
  output: Image, z_t: Image, logsnr: Logsnr, *, prediction: Prediction
) -> X0Eps:
  """(x0, eps) of a network's output; logsnr must be finite."""
  check_prediction(prediction)
  output, z_t, logsnr = precision.at_least_float32(output, z_t, logsnr)
  if prediction == "x0":
    return from_x0(output, z_t, logsnr)
  alpha, sigma = alpha_sigma(logsnr)
  if prediction == "eps":
    return X0Eps((z_t - sigma * output) / alpha, output)
  return X0Eps(alpha * z_t - sigma * output, sigma * z_t + alpha * output)


def from_x0(x0: Image, z_t: Image, logsnr: Logsnr) -> X0Eps:
  """(x0, eps), with the eps that x0 implies, as after thresholding."""
  x0, z_t, logsnr = precision.at_least_float32(x0, z_t, logsnr)
  alpha, sigma = alpha_sigma(logsnr)
  return X0Eps(x0, (z_t - alpha * x0) / sigma)


def target(
  x0: Image, eps: Image, logsnr: Logsnr, *, prediction: Prediction
) -> Image:
  """What the network should output for z_t = alpha x0 + sigma eps."""
  check_prediction(prediction)
  x0, eps, logsnr = precision.at_least_float32(x0, eps, logsnr)
  if prediction == "x0":
    return x0
  if prediction == "eps":
    return eps
  alpha, sigma = alpha_sigma(logsnr)
  return alpha * eps - sigma * x0


def convert(
  output: Image,
  z_t: Image,
  logsnr: Logsnr,
  *,
  source: Prediction,
  destination: Prediction,
) -> Image:
  """`output`, a prediction of `source`, as one of `destination`."""
  check_prediction(destination)
  pair = to_x0_eps(output, z_t, logsnr, prediction=source)
  if source == destination:
    return precision.at_least_float32(output, pair.x0)[0]
  return target(pair.x0, pair.eps, logsnr, prediction=destination)
