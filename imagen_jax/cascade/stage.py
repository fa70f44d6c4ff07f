"""One stage of the cascade: where a network meets the mathematics.

A `Stage` holds what a stage is (module, schedule, prediction, resolutions) and
no weights. The base and a super-resolution stage differ by fields: the latter
has a `low_resolution` and gets x_lr, noised by aug_level (paper section 2.4).

DeepFloyd IF's stages are `discrete`: the network is told steps 0..999 in place
of logsnr, and x_lr is enlarged first and noised then, by the stage's schedule.

  loss:   batch {image [b h w 3], x_lr [b h' w' 3], text_emb [b l d],
          text_mask [b l]} -> per-example loss
  sample: cond + keys -> x0 in [-1, 1]
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.core import errors, images, rng, tree
from imagen_jax.core.arrays import Cond, Image, Key, Keys, Logsnr, Params
from imagen_jax.diffusion import (
  augmentation,
  guidance,
  losses,
  parameterization,
  process,
  sampling,
  schedules,
  time_sampling,
)
from imagen_jax.diffusion import weighting as weighting_lib
from imagen_jax.nn import param_init


@dataclasses.dataclass(frozen=True)
class Stage:
  """What a stage is, without its weights."""

  name: str
  module: nn.Module
  resolution: int  # pixels a side of x0
  text_width: int  # of text_emb
  low_resolution: int | None = None  # pixels a side of x_lr; None: base
  schedule: schedules.Schedule = schedules.cosine_logsnr
  prediction: parameterization.Prediction = "eps"
  weighting: weighting_lib.Weighting = "eps"
  text_drop_rate: float = 0.1  # classifier-free guidance, paper section 4.1
  max_aug_level: float = 1.0  # of training, U(0, max); paper section 2.4 has 1
  residual: bool = False  # an x0-predicting module outputs x0 - enlarged x_lr
  discrete: bool = False  # steps 0..999 of "cosine_1000", as DeepFloyd IF


def _inputs(stage: Stage, length: int = 8) -> tuple:
  """Abstract arguments of the module for one example."""
  side, low = stage.resolution, stage.low_resolution
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  level = jax.ShapeDtypeStruct((1,), jnp.float32)
  text = jax.ShapeDtypeStruct((1, length, stage.text_width), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
  if low is None:
    return image, level, text, mask
  x_lr = jax.ShapeDtypeStruct((1, low, low, 3), jnp.float32)
  return image, level, text, mask, x_lr, level


def param_shapes(stage: Stage) -> Params:
  """The tree of parameters as shapes; nothing is allocated."""
  return jax.tree.map(lambda leaf: leaf, _param_shapes(stage))  # one's own


@functools.lru_cache(maxsize=16)  # seconds, of a large network
def _param_shapes(stage: Stage) -> Params:
  return param_init.trace(stage.module, _inputs(stage))[0]


def init(
  stage: Stage, key: Key, place: param_init.Place = param_init.on_device
) -> Params:
  """Fresh parameters; output layers are zero, so the first loss is 1.

  `place(name, values)` puts each on its devices.
  """
  return param_init.init_params(stage.module, key, _inputs(stage), place)


def denoise_fn(
  stage: Stage, params: Params, *, dropout_key: Key | None = None
) -> losses.DenoiseFn:
  """(z_t, logsnr, cond) -> the network's output, with `params` bound.

  With `dropout_key` the network is in training mode.
  """
  train = dropout_key is not None
  rngs = {"dropout": dropout_key} if train else None

  def denoise(
    z_t: Image, logsnr: Logsnr, cond: Cond
  ) -> Float[Array, "b h w o"]:
    if stage.discrete:
      logsnr = schedules.cosine_1000_step(logsnr)
    output = stage.module.apply(
      {"params": params},
      z_t,
      logsnr,
      cond["text_emb"],
      cond["text_mask"],
      cond.get("x_lr"),
      cond.get("aug_level"),
      train=train,
      rngs=rngs,
    )
    if not stage.residual:
      return output
    return output + images.upsample_bilinear(cond["x_lr"], z_t.shape[1:3])

  return denoise


def check(stage: Stage) -> None:
  """Raises BadInput for fields that do not go together."""
  if not 0.0 <= stage.max_aug_level <= 1.0:
    raise errors.BadInput(
      f"max_aug_level is {stage.max_aug_level}; it must be in [0, 1]."
    )
  if stage.residual and (stage.low_resolution is None):
    raise errors.BadInput("residual needs x_lr; set a low_resolution.")
  if stage.residual and stage.prediction != "x0":
    raise errors.BadInput(
      f"residual is for prediction 'x0', not {stage.prediction!r}."
    )
  told = getattr(stage.module, "time_input", "logsnr")
  if stage.discrete != (told == "step"):
    raise errors.BadInput(
      f"the network of stage {stage.name!r} takes a {told}, and discrete is"
      f" {stage.discrete}; a discrete stage is one of time_input 'step'."
    )
  if stage.discrete and stage.schedule is not schedules.cosine_1000_logsnr:
    raise errors.BadInput(
      f"stage {stage.name!r} is discrete; its schedule must be 'cosine_1000'."
    )


def check_settings(stage: Stage, settings: sampling.SamplerSettings) -> None:
  """Raises BadInput for settings that do not fit the network."""
  sampling.check(settings)
  learned = getattr(stage.module, "learned_variance", False)
  if settings.learned_variance != learned:
    raise errors.BadInput(
      f"learned_variance is {settings.learned_variance} in the settings of"
      f" stage {stage.name!r}, and {learned} in its network; set both alike."
    )


def training_cond(stage: Stage, batch: Cond, key: Key) -> Cond:
  """The conditioning of a training step: text dropped, x_lr noised.

  The aug_level is U(0, max_aug_level) for each example, and the noised x_lr,
  not the clean one, is what the network sees.
  """
  b = batch["image"].shape[0]
  cond = {name: batch[name] for name in ("text_emb", "text_mask")}
  drop = jax.random.bernoulli(
    rng.key_for(key, "text_drop"), stage.text_drop_rate, (b,)
  )
  cond = guidance.drop_text(cond, drop)
  if stage.low_resolution is None:
    return cond
  aug_level = jax.random.uniform(
    rng.key_for(key, "aug_level"), (b,), maxval=stage.max_aug_level
  )
  x_lr = batch["x_lr"]
  eps = jax.random.normal(rng.key_for(key, "aug_eps"), x_lr.shape)
  noised = augmentation.noise_x_lr(x_lr, aug_level, eps)
  return cond | {"x_lr": noised, "aug_level": aug_level}


def loss(stage: Stage, params: Params, batch: Cond, key: Key) -> losses.Loss:
  """The training loss of a batch, for each example."""
  if getattr(stage.module, "learned_variance", False):
    raise errors.BadInput(
      f"stage {stage.name!r} has a learned variance, which has no loss here;"
      " such a network can be sampled from, and not be trained."
    )
  cond = training_cond(stage, batch, key)
  return losses.diffusion_loss(
    denoise_fn(stage, params, dropout_key=rng.key_for(key, "dropout")),
    batch["image"],
    cond,
    rng.key_for(key, "diffusion"),
    schedule=stage.schedule,
    prediction=stage.prediction,
    weighting=stage.weighting,
    sample_time=time_sampling.uniform,
  )


def sampling_cond(
  stage: Stage,
  cond: Cond,
  keys: Keys,
  aug_level: float,
  x_lr: Float[Array, "b p q c"] | None = None,
) -> Cond:
  """The conditioning of sampling: x_lr is noised once, and kept."""
  if stage.low_resolution is None or x_lr is None:
    return cond
  noise_keys = rng.each_key_for(keys, f"{stage.name}/aug")
  if stage.discrete:
    return cond | _noised_large(stage, noise_keys, aug_level, x_lr)
  levels = jnp.full((x_lr.shape[0],), aug_level, jnp.float32)
  eps = _normal(noise_keys, x_lr.shape[1:])
  noised = augmentation.noise_x_lr(x_lr, levels, eps)
  return cond | {"x_lr": noised, "aug_level": levels}


def _noised_large(
  stage: Stage,
  noise_keys: Keys,
  aug_level: float,
  x_lr: Float[Array, "b p q c"],
) -> Cond:
  """x_lr enlarged, then noised to a step, as DeepFloyd IF does both."""
  factor = stage.resolution // stage.low_resolution
  h, w = x_lr.shape[1:3]
  large = images.upsample_corners(x_lr, (factor * h, factor * w))
  step = min(round(1000 * aug_level), 999)
  levels = jnp.full((x_lr.shape[0],), step, large.dtype)
  eps = _normal(noise_keys, large.shape[1:])
  noised = process.q_sample(large, stage.schedule(levels / 999), eps)
  return {"x_lr": noised, "aug_level": levels}


def _normal(keys: Keys, shape: tuple[int, int, int]) -> Image:
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def sample(
  stage: Stage,
  params: Params,
  cond: Cond,
  keys: Keys,
  settings: sampling.SamplerSettings,
  *,
  x_lr: Float[Array, "b p q c"] | None = None,
  progress: sampling.Progress | None = None,
) -> Image:
  """x0 of one stage in [-1, 1]; example i depends on keys[i] alone."""
  cond = sampling_cond(stage, cond, keys, settings.aug_level, x_lr)
  side = stage.resolution
  return sampling.sample(
    denoise_fn(stage, params),
    cond,
    rng.each_key_for(keys, stage.name),
    shape=(side, side, 3),
    schedule=stage.schedule,
    prediction=stage.prediction,
    settings=settings,
    progress=progress,
  )


def describe(stage: Stage) -> str:
  """A table of the parameters by block, from shapes alone."""
  return tree.table(param_shapes(stage))
