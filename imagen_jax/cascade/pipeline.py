"""The cascade: text_emb -> 64x64 -> 256x256 -> ..., stage by stage.

  x_1 = sample(stage_1, text);  x_k = sample(stage_k, text, x_lr = x_{k-1})

`sample` is the whole as one pure function of each stage's parameters. `chunks`
is the same for any number of images on a host: each stage in turn, in chunks of
one shape (the last is filled up), a few steps a call. So a stage compiles once
whatever is asked for, progress can be shown, and no host callback keeps the
programs out of JAX's persistent cache.

Image i depends on (parameters, text, keys[i], settings) alone; `image_keys`
makes keys[i] of a root key and i.
"""

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import (
  Cond,
  Image,
  Key,
  Keys,
  Params,
  TextEmb,
  TextMask,
)
from imagen_jax.diffusion import sampling
from imagen_jax.text import encoders

# Parameters by stage name; those of the text encoder are under "encoder".
CascadeParams: TypeAlias = Mapping[str, Params]

# At most so many steps in one call; the host hears of progress in between.
_STEPS_A_CALL = 4


@dataclasses.dataclass(frozen=True)
class Cascade:
  """Stages, how each is sampled, and the text encoder; no weights."""

  stages: tuple[stage_lib.Stage, ...]
  settings: tuple[sampling.SamplerSettings, ...]
  encoder: encoders.TextEncoder


class Chunk(NamedTuple):
  """Images start, start + 1, ... of one stage, on the host."""

  stage: int
  start: int
  images: Float[np.ndarray, "n h w c"]


@runtime_checkable
class Progress(Protocol):
  """Told how many steps of a stage are done, over all of its chunks."""

  def __call__(self, stage: str, done: int, total: int) -> None: ...


def check(cascade: Cascade) -> None:
  """Raises BadInput if a stage cannot follow the one before it."""
  stages = cascade.stages
  if not stages or len(stages) != len(cascade.settings):
    raise errors.BadInput(
      f"{len(stages)} stages and {len(cascade.settings)} settings; give as many"
      " of one as of the other, and at least one."
    )
  names = [stage.name for stage in stages]
  if len(set(names)) < len(names) or "encoder" in names:
    raise errors.BadInput(
      f"stage names {names} must differ, and none may be 'encoder'."
    )
  given = None
  for stage, settings in zip(stages, cascade.settings, strict=True):
    sampling.check(settings)
    if stage.low_resolution != given:
      raise errors.BadInput(
        f"stage {stage.name!r} takes images of {stage.low_resolution}, but the"
        f" stage before gives {given}; choose stages that fit."
      )
    if stage.text_width != cascade.encoder.width:
      raise errors.BadInput(
        f"stage {stage.name!r} takes text of width {stage.text_width}, but"
        f" encoder {cascade.encoder.name!r} gives {cascade.encoder.width}."
      )
    given = stage.resolution


def image_keys(key: Key, indices: Int[Array, "b"]) -> Keys:
  """The keys of images number `indices` under a root key."""
  return rng.keys_for(key, "image", indices)


def sample_stages(
  cascade: Cascade,
  params: CascadeParams,
  text_emb: TextEmb,
  text_mask: TextMask,
  keys: Keys,
) -> tuple[Image, ...]:
  """The images of every stage in [-1, 1]; pure, for use inside jit."""
  cond = {"text_emb": text_emb, "text_mask": text_mask}
  images: list[Image] = []
  for stage, settings in zip(cascade.stages, cascade.settings, strict=True):
    x_lr = images[-1] if images else None
    x0 = stage_lib.sample(
      stage, params[stage.name], cond, keys, settings, x_lr=x_lr
    )
    images.append(x0)
  return tuple(images)


def sample(
  cascade: Cascade,
  params: CascadeParams,
  text_emb: TextEmb,
  text_mask: TextMask,
  keys: Keys,
) -> Image:
  """The images of the last stage in [-1, 1]; pure, for use inside jit."""
  return sample_stages(cascade, params, text_emb, text_mask, keys)[-1]


def chunks(
  cascade: Cascade,
  params: CascadeParams,
  text_emb: Float[np.ndarray, "n l d"],
  text_mask: Bool[np.ndarray, "n l"],
  keys: Keys,
  *,
  batch_size: int,
  progress: Progress | None = None,
) -> Iterator[Chunk]:
  """All n images of the first stage, then of the next, chunk by chunk.

  With fewer than `batch_size` images a chunk is as large as they are.
  """
  check(cascade)
  n = text_emb.shape[0]
  if batch_size < 1:
    raise errors.BadInput(f"batch_size is {batch_size}; it must be at least 1.")
  size = max(1, min(batch_size, n))
  last = len(cascade.stages) - 1
  x_lr = None
  for k, stage in enumerate(cascade.stages):
    settings = cascade.settings[k]
    groups = _groups(stage, settings)
    total = -(-n // size) * settings.steps
    if progress is not None:
      progress(stage.name, 0, total)
    kept = []
    for start in range(0, n, size):
      # The last chunk is filled up with copies of the last image.
      rows = np.minimum(np.arange(start, start + size), n - 1)
      images = _stage_images(
        stage,
        settings,
        groups,
        params[stage.name],
        {
          "text_emb": jnp.asarray(text_emb[rows]),
          "text_mask": jnp.asarray(text_mask[rows]),
        },
        keys[rows],
        None if x_lr is None else x_lr[rows],
        _offset(progress, stage.name, start // size * settings.steps, total),
      )[: n - start]
      if k < last:
        kept.append(images)
      yield Chunk(k, start, images)
    x_lr = np.concatenate(kept) if kept else None


def _offset(
  progress: Progress | None, name: str, before: int, total: int
) -> sampling.Progress | None:
  """Progress of a chunk as progress of its stage."""
  if progress is None:
    return None
  return lambda step: progress(name, before + step, total)


def _stage_images(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  groups: list[sampling.Plan],
  params: Params,
  cond: Cond,
  keys: Keys,
  x_lr: Float[np.ndarray, "b p q c"] | None,
  progress: sampling.Progress | None,
) -> Float[np.ndarray, "b h w c"]:
  """One chunk of one stage, a group of steps a call."""
  state, cond, keys = _begin(stage, settings.aug_level, cond, keys, x_lr)
  for group in groups:
    state = _advance(stage, settings, params, state, cond, keys, group)
    if progress is not None:
      jax.block_until_ready(state)
      progress(int(group.step[-1]) + 1)
  images = np.asarray(sampling.finish(state), np.float32)
  if not np.isfinite(images).all():
    raise errors.NonFinite(
      f"stage {stage.name!r} made images that are not finite; its weights are"
      " damaged or its settings too strong: try a lower guidance_weight."
    )
  return images


def _groups(
  stage: stage_lib.Stage, settings: sampling.SamplerSettings
) -> list[sampling.Plan]:
  """The numbers of all steps, a few at a time, all groups alike."""
  plan = sampling.plan(settings, stage.schedule)
  size = steps_a_call(settings.steps)
  split = jax.tree.map(lambda rows: rows.reshape(-1, size), plan)
  return [
    jax.tree.map(operator.itemgetter(i), split)
    for i in range(settings.steps // size)
  ]


def steps_a_call(steps: int) -> int:
  """The largest number up to 4 that divides steps: each call has as many."""
  return max(n for n in range(1, _STEPS_A_CALL + 1) if steps % n == 0)


@partial(jax.jit, static_argnums=(0, 1))
def _begin(
  stage: stage_lib.Stage,
  aug_level: float,
  cond: Cond,
  keys: Keys,
  x_lr: Float[Array, "b p q c"] | None,
) -> tuple[sampling.State, Cond, Keys]:
  """Noise at t = 1, the conditioning, and the keys of the steps."""
  cond = stage_lib.sampling_cond(stage, cond, keys, aug_level, x_lr)
  keys = rng.each_key_for(keys, stage.name)
  side = stage.resolution
  return sampling.init(keys, (side, side, 3)), cond, keys


@partial(jax.jit, static_argnums=(0, 1))
def _advance(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  state: sampling.State,
  cond: Cond,
  keys: Keys,
  rows: sampling.Plan,
) -> sampling.State:
  """Some steps of a stage, those of `rows`."""
  state, _ = sampling.advance(
    stage_lib.denoise_fn(stage, params),
    state,
    cond,
    keys,
    rows,
    prediction=stage.prediction,
    settings=settings,
  )
  return state
