"""The cascade: text_emb -> 64x64 -> 256x256 -> ..., stage by stage.

  x_1 = sample(stage_1, text);  x_k = sample(stage_k, text, x_lr = x_{k-1})

`sample` is the whole as one pure function of each stage's parameters. `chunks`
is the same for any number of images on a host: each stage in turn, in chunks of
one shape (the last is filled up), as `runner` draws them: a stage compiles once
whatever is asked for. With an `edits.Edit` it begins with an image, keeps a
part of one, or makes another size.

Image i depends on (parameters, text, keys[i], settings) alone; `image_keys`
makes keys[i] of a root key and i.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.cascade import edit_parts, edits, runner
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

# Parameters by stage name; those of the text encoder are under "encoder". Where
# what guidance leads away from is not zeros, "null_text" has its text_emb [l d]
# and, if that is not the prompt's, its text_mask [l].
CascadeParams: TypeAlias = Mapping[str, Params]


@dataclasses.dataclass(frozen=True)
class Cascade:
  """Stages, how each is sampled and where, the text encoder; no weights."""

  stages: tuple[stage_lib.Stage, ...]
  settings: tuple[sampling.SamplerSettings, ...]
  encoder: encoders.TextEncoder
  layout: runner.Layout | None = None  # of `chunks`, on several devices
  # Images a program of `chunks` draws, whatever is asked for: the same program
  # has the same bits. None: up to batch_size, which is another program each.
  images_a_program: int | None = None


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
  if len(set(names)) < len(names) or {"encoder", "null_text"} & set(names):
    raise errors.BadInput(
      f"stage names {names} must differ, and none may be 'encoder' or"
      " 'null_text'."
    )
  given = None
  for stage, settings in zip(stages, cascade.settings, strict=True):
    stage_lib.check_settings(stage, settings)
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
  cond = _cond(params, text_emb, text_mask)
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


def chunk_size(cascade: Cascade, n: int, batch_size: int) -> int:
  """How many of n images are sampled at once.

  As many as the cascade has fixed; or else as there are or `batch_size`, and
  then up to what can be cut evenly over the devices of a layout.
  """
  if batch_size < 1:
    raise errors.BadInput(f"batch_size is {batch_size}; it must be at least 1.")
  if cascade.images_a_program is not None:
    return cascade.images_a_program
  parts = 1 if cascade.layout is None else cascade.layout.parts
  return -(-max(1, min(batch_size, n)) // parts) * parts


def chunks(
  cascade: Cascade,
  params: CascadeParams,
  text_emb: Float[np.ndarray, "n l d"],
  text_mask: Bool[np.ndarray, "n l"],
  keys: Keys,
  *,
  batch_size: int,
  progress: Progress | None = None,
  edit: edits.Edit = edits.NONE,
) -> Iterator[Chunk]:
  """All n images of the first stage, then of the next, chunk by chunk.

  Chunks are of `chunk_size` images.
  """
  check(cascade)
  n = text_emb.shape[0]
  size = chunk_size(cascade, n, batch_size)
  last = len(cascade.stages) - 1
  x_lr = edit_parts.first_x_lr(edit, n)
  for k in range(edit.first, len(cascade.stages)):
    stage, settings = cascade.stages[k], cascade.settings[k]
    part = edit_parts.prepare(edit, cascade.stages, k, settings)
    steps = sum(len(rows.step) for rows in part.plans)
    total = -(-n // size) * steps
    if progress is not None:
      progress(stage.name, 0, total)
    kept = []
    for start in range(0, n, size):
      # The last chunk is filled up with copies of the last image.
      rows = np.minimum(np.arange(start, start + size), n - 1)
      images = runner.draw(
        stage,
        settings,
        params[stage.name],
        _cond(
          params, jnp.asarray(text_emb[rows]), jnp.asarray(text_mask[rows])
        ),
        keys[rows],
        None if x_lr is None else x_lr[rows],
        plans=part.plans,
        start=edit_parts.start(part, stage, keys[rows]),
        progress=_offset(progress, stage.name, start // size * steps, total),
        layout=cascade.layout,
      )[: n - start]
      if k < last:
        kept.append(images)
      yield Chunk(k, start, edit_parts.cropped(part, images))
    x_lr = np.concatenate(kept) if kept else None


def _cond(
  params: CascadeParams, text_emb: TextEmb, text_mask: TextMask
) -> Cond:
  """The text, and what there is without it."""
  cond = {"text_emb": text_emb, "text_mask": text_mask}
  for name, row in params.get("null_text", {}).items():
    like = cond[name]
    null = jnp.asarray(row, like.dtype)
    cond[f"null_{name}"] = jnp.broadcast_to(null[None], like.shape)
  return cond


def _offset(
  progress: Progress | None, name: str, before: int, total: int
) -> sampling.Progress | None:
  """Progress of a chunk as progress of its stage."""
  if progress is None:
    return None
  return lambda step: progress(name, before + step, total)
