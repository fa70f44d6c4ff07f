"""Does the text matter yet? An evaluator for the loop.

Real images get the same noise; the network denoises them with their own
prompts, with each other's, and with none:

  change = rms(x0_hat(other text) - x0_hat(own text)) / rms(x0_hat(own text))

at a few noise levels. It is 0 before the text is used, and 0 for good where the
text does not reach the network; it grows first where there is most noise. A
change by other prompts far below that by none: text is noticed, but not read.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Cond, Image, Params
from imagen_jax.diffusion import guidance, parameterization, process
from imagen_jax.train.state import TrainState

_TEXT = ("text_emb", "text_mask")


@dataclasses.dataclass(frozen=True, eq=False)
class PromptSwap:
  """Needs images `x0` and their `cond` (with x_lr), of unlike prompts."""

  stage: stage_lib.Stage
  x0: Image
  cond: Cond
  every: int
  logsnrs: tuple[float, ...] = (-6.0, -2.0, 2.0)
  aug_level: float = 0.0  # of x_lr
  seed: int = 0

  def __post_init__(self):
    text = np.asarray(self.cond["text_emb"])
    if np.array_equal(text, np.roll(text, 1, axis=0)):
      raise errors.BadInput(
        f"{len(text)} prompts of one text cannot be swapped; give two or more"
        " that differ."
      )

  def __call__(
    self, state: TrainState, step: int, workdir: epath.Path
  ) -> dict[str, float]:
    found = jax.device_get(
      _changes(
        self.stage,
        self.aug_level,
        state.ema_params,
        self.x0,
        self.cond,
        jnp.asarray(self.logsnrs, jnp.float32),
        self.seed,
      )
    )
    row = {}
    for logsnr, (other, empty) in zip(self.logsnrs, found, strict=True):
      row[f"prompt_swap/other_logsnr_{logsnr:g}"] = float(other)
      row[f"prompt_swap/empty_logsnr_{logsnr:g}"] = float(empty)
    return row


@partial(jax.jit, static_argnums=(0, 1))
def _changes(
  stage: stage_lib.Stage,
  aug_level: float,
  params: Params,
  x0: Image,
  cond: Cond,
  logsnrs: Float[Array, "n"],
  seed: int | Int[Array, ""],
) -> Float[Array, "n 2"]:
  """The change by other prompts and by none, at each noise level."""
  b = x0.shape[0]
  keys = rng.keys_for(jax.random.key(seed), "prompt_swap", jnp.arange(b))
  eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys)
  text = {name: cond[name] for name in _TEXT}
  own = stage_lib.sampling_cond(
    stage, text, keys, aug_level, x_lr=cond.get("x_lr")
  )
  other = own | {name: jnp.roll(own[name], 1, axis=0) for name in _TEXT}
  # One call on the batch [own; other; none].
  three = jax.tree.map(
    lambda *parts: jnp.concatenate(parts), own, other, guidance.null_text(own)
  )
  denoise = stage_lib.denoise_fn(stage, params)

  def at(logsnr: Float[Array, ""]) -> Float[Array, "2"]:
    levels = jnp.broadcast_to(logsnr, (3 * b,))
    z_t = jnp.tile(process.q_sample(x0, levels[:b], eps), (3, 1, 1, 1))
    output = denoise(z_t, levels, three)
    x0_hat, _ = parameterization.to_x0_eps(
      output, z_t, levels, prediction=stage.prediction
    )
    with_own, with_other, with_none = jnp.split(x0_hat, 3)
    size = jnp.maximum(_rms(with_own), 1e-6)
    changes = [_rms(x - with_own) / size for x in (with_other, with_none)]
    return jnp.stack(changes)

  return jax.lax.map(at, logsnrs)


def _rms(x: Image) -> Float[Array, ""]:
  return jnp.sqrt(jnp.mean(jnp.square(x)))
