"""A stage of a cascade, measured on held-out prompts of the emoji set.

What `evaluate_sweep` and `evaluate_ablate` share: stages before the one that is
measured are drawn once, and then a point's settings decide the images.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax import api, build
from imagen_jax.cascade import folder, pipeline
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, images
from imagen_jax.core.arrays import Params
from imagen_jax.data import emoji
from imagen_jax.diffusion import sampling
from imagen_jax.evals import emoji_measure, plots, stage_draws, sweeps
from imagen_jax.text import embedded, embedding

X = plots.Axis("object", "standing of the prompted object", True)
Y = plots.Axis("distance", "distance to real images (MMD x 1000)", False)


class Asked(NamedTuple):
  """Held-out pairs of the set, and the seed of pairs and images."""

  objects: emoji.EmojiSet
  pairs: list[emoji_measure.Pair]
  seed: int

  @property
  def captions(self) -> list[str]:
    return [pair.caption for pair in self.pairs]


def asked(count: int, seed: int) -> Asked:
  """`count` held-out pairs; BadInput if there are too few of them."""
  objects = emoji.open_emoji()
  return Asked(objects, emoji_measure.choose_pairs(objects, count, seed), seed)


def stage_index(description: folder.Description, name: str | None) -> int:
  """Where the stage is; None is the first."""
  names = description.names
  if name is None:
    return 0
  if name not in names:
    raise errors.BadInput(
      f"--stage={name} is not in this cascade; its stages are"
      f" {', '.join(names)}."
    )
  return names.index(name)


class Loaded(NamedTuple):
  """Stages with their weights, and the text of what is asked for."""

  stages: tuple[stage_lib.Stage, ...]
  settings: tuple[sampling.SamplerSettings, ...]
  params: dict[str, Params]
  what: stage_draws.Asked


def load(description: folder.Description, asked: Asked) -> Loaded:
  """All stages of a cascade."""
  cascade, params = api.load(description)
  text = api.embed(cascade, params, asked.captions)
  return Loaded(
    cascade.stages, cascade.settings, dict(params), _asked(text, asked)
  )


def load_alone(path: files.PathLike, asked: Asked) -> Loaded:
  """One stage file, which may be of a stage that enlarges."""
  entry = folder.read_stage(path)
  encoder, encoder_params = build.encoder(entry.info.text)
  text = embedding.embed(encoder, encoder_params, asked.captions)
  stage = api.make_stage(entry.info.stage)
  params = jax.tree.map(jnp.asarray, folder.load_params(path))
  settings = build.sampler(entry.sampler)
  return Loaded(
    (stage,), (settings,), {stage.name: params}, _asked(text, asked)
  )


def measure(
  loaded: Loaded,
  stage: int,
  asked: Asked,
  *,
  batch_size: int,
  fixed: sweeps.Point | None = None,
  x_lr: Float[np.ndarray, "n h w 3"] | None = None,
) -> sweeps.Measure:
  """A point's settings go over `fixed`, and that over the stage's own.

  `x_lr` are smaller images of any size, for a stage that was loaded alone and
  enlarges; otherwise the stages before it are drawn, once.
  """
  chosen = loaded.stages[stage]
  if x_lr is None:
    x_lr = _small(loaded, stage, batch_size)
  what = loaded.what
  if chosen.low_resolution is not None and x_lr is not None:
    what = what._replace(x_lr=resized(x_lr, chosen.low_resolution))
  return stage_draws.measure(
    chosen,
    loaded.params[chosen.name],
    dataclasses.replace(loaded.settings[stage], **(fixed or {})),
    what,
    asked.captions,
    emoji_measure.make(
      asked.objects,
      asked.pairs,
      resolution=chosen.resolution,
      seed=asked.seed,
    ),
    batch_size=batch_size,
  )


def drawn(loaded: Loaded, *, batch_size: int) -> Float[np.ndarray, "n h w 3"]:
  """Images of the first stage, with its own settings."""
  x = _small(loaded, 1, batch_size)
  assert x is not None
  return x


def _small(
  loaded: Loaded, stage: int, batch_size: int
) -> Float[np.ndarray, "n h w 3"] | None:
  """Images of the stages before `stage`; None if it is the first."""
  what = loaded.what
  for before, own in zip(
    loaded.stages[:stage], loaded.settings[:stage], strict=True
  ):
    x = stage_draws.draw(
      before, loaded.params[before.name], own, what, batch_size=batch_size
    )
    what = what._replace(x_lr=x)
  return what.x_lr


def _asked(text: embedded.Embedded, asked: Asked) -> stage_draws.Asked:
  keys = pipeline.image_keys(
    jax.random.key(asked.seed), jnp.zeros(len(asked.pairs), jnp.int32)
  )
  return stage_draws.Asked(
    np.asarray(text.text_emb), np.asarray(text.text_mask), keys
  )


def resized(
  x: Float[np.ndarray, "n h w 3"], side: int
) -> Float[np.ndarray, "n s s 3"]:
  """Antialiased to `side` pixels; as it is where it has that size."""
  if x.shape[1:3] == (side, side):
    return x
  small = images.resize_antialias(jnp.asarray(x), (side, side))
  return np.asarray(small, np.float32)


def told(row: sweeps.Row) -> str:
  """A row of results for people."""
  settings = " ".join(f"{name}={value}" for name, value in row.point.items())
  scores = "  ".join(
    f"{name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    for name, score in row.scores.items()
  )
  return f"{settings:<40} {scores}"
