"""The nonlinearities of the U-Nets, by name.

swish  x sigmoid(x), the paper's
gelu   x Phi(x) with the exact error function, DeepFloyd IF's
"""

from typing import Literal, get_args

import jax
from jaxtyping import Array, Float

from imagen_jax.core import errors

Activation = Literal["swish", "gelu"]


def apply(name: Activation, x: Float[Array, "..."]) -> Float[Array, "..."]:
  """The named function of each value of x."""
  if name == "swish":
    return jax.nn.swish(x)
  if name == "gelu":
    return jax.nn.gelu(x, approximate=False)
  raise errors.BadInput(
    f"activation {name!r} is unknown; use one of"
    f" {', '.join(get_args(Activation))}."
  )
