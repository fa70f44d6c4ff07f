"""The one reader of configs: ConfigDict -> stage, optimizer, source, run.

A config has the fields of `configs/demo.py`. Field names of `stage.fields` are
those of the network's module (Appendix F), so a module's own fields are the
schema and a wrong one is an error that names the right ones.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from imagen_jax.cascade import folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, rng
from imagen_jax.core.arrays import Params
from imagen_jax.data import pipeline
from imagen_jax.diffusion import (
  parameterization,
  sampling,
  schedules,
  weighting,
)
from imagen_jax.evals import sample_grid
from imagen_jax.models import variants
from imagen_jax.text import (
  embedded,
  embedding,
  encoders,
  packages,
  store_format,
)
from imagen_jax.text import store as store_lib
from imagen_jax.train import loop, optimizers, record
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from imagen_jax.weights import placement

Config: TypeAlias = Mapping | ml_collections.ConfigDict

# `config.text`; stage files of before a field was added lack it.
TEXT = {
  "encoder": "minilm",  # a name, a folder, or a T5X checkpoint
  "max_length": None,
  "tokenizer": "",  # a file or folder; "" is the one beside the weights
  "clean": "none",
  "precision": "float32",
  "penultimate": False,
}


def plain(config: Config) -> dict:
  """A config as nested dicts and lists, as JSON holds it."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return {name: _plain_value(value) for name, value in config.items()}


def stage(config: Config) -> stage_lib.Stage:
  """`config.stage` (a ConfigDict, or the dict stored with weights)."""
  fields = plain(config)
  dtype = jnp.dtype(fields.pop("dtype"))
  module = variants.build(
    fields.pop("network"), fields.pop("fields") | {"dtype": dtype}
  )
  parameterization.check_prediction(fields["prediction"])
  weighting.check_weighting(fields["weighting"])
  fields["schedule"] = schedules.by_name(fields["schedule"])
  fields["low_resolution"] = fields["low_resolution"] or None
  built = _construct(stage_lib.Stage, fields | {"module": module}, "stage")
  stage_lib.check(built)
  return built


def sampler(config: Config) -> sampling.SamplerSettings:
  """`config.sampler`."""
  settings = _construct(sampling.SamplerSettings, plain(config), "sampler")
  sampling.check(settings)
  return settings


def cascade(config: Config, *, demo: files.PathLike) -> folder.Description:
  """A cascade's config, as of `configs/cascade.py`; the weights stay unread.

  `config.weights` is a folder ("" is `demo`); or `config.files` are the stage
  files. `config.samplers` has settings by stage, None where the file's hold.
  """
  fields = plain(config)
  if unknown := fields.keys() - {"weights", "files", "samplers"}:
    raise errors.BadInput(
      f"{sorted(unknown)[0]} is no field of a cascade's config, which has"
      " weights, files and samplers; see configs/cascade.py."
    )
  if fields.get("files"):
    description = folder.from_files(fields["files"])
  else:
    description = folder.read(fields.get("weights") or demo)
  samplers = fields.get("samplers", {})
  if unknown := samplers.keys() - set(description.names):
    raise errors.BadInput(
      f"samplers.{sorted(unknown)[0]} is of no stage; the stages are"
      f" {', '.join(description.names)}."
    )
  merged = []
  for entry in description.stages:
    given = samplers.get(entry.info.name, {})
    said = {name: value for name, value in given.items() if value is not None}
    merged.append(entry.sampler | said)
  return folder.with_samplers(description, merged)


def encoder(
  config: Config,
  name: str | None = None,
  *,
  sharding: placement.Sharding | None = None,
) -> tuple[encoders.TextEncoder, Params]:
  """`config.text`, with its weights; `name` is where they are now."""
  fields = TEXT | plain(config)
  if unknown := fields.keys() - TEXT.keys():
    raise errors.BadInput(
      f"text.{sorted(unknown)[0]} is not a field; the fields are"
      f" {', '.join(TEXT)}."
    )
  return encoders.load(
    name or fields["encoder"],
    fields["max_length"],
    tokenizer=fields["tokenizer"] or None,
    clean=fields["clean"],
    precision=fields["precision"],
    penultimate=fields["penultimate"],
    sharding=sharding,
  )


def store(config: ml_collections.ConfigDict) -> store_lib.EmbeddingStore:
  """`config.data.store`, if it was made as `config.text` says."""
  text = TEXT | plain(config.text)
  package = packages.PACKAGES.get(text["encoder"])
  plain_weights = package is not None and text["precision"] == "float32"
  return store_lib.EmbeddingStore(
    config.data.store,
    expected=store_format.Identity(
      encoder=encoders.short_name(text["encoder"]),
      weights=package.weights_sha256 if plain_weights else None,
      tokenizer=package.tokenizer_sha256 if package else None,
      max_length=text["max_length"],
      width=config.stage.text_width,
      clean=text["clean"],
    ),
  )


def _embed(config: ml_collections.ConfigDict) -> tuple[embedded.Embed, str]:
  """Captions to embeddings, and the fingerprint of the encoder's weights.

  From the store if there is one, and then no encoder is loaded.
  """
  if config.data.store:
    opened = store(config)
    return opened.embed, opened.manifest.identity.weights
  loaded, params = encoder(config.text)
  return embedding.memo(loaded, params), loaded.fingerprint


def optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """`config.optimizer`, over `config.train.steps`."""
  fields = plain(config.optimizer)
  optimizers.check(fields["name"], fields["decay"])
  schedule = optimizers.learning_rate_schedule(
    fields.pop("learning_rate"),
    warmup_steps=fields.pop("warmup_steps"),
    decay=fields.pop("decay"),
    total_steps=config.train.steps,
  )
  return optimizers.make(fields.pop("name"), schedule, **fields)


def source(config: ml_collections.ConfigDict) -> loop.Source:
  """The batches of `config.data` at the stage's resolutions."""
  if config.data.name != "emoji":
    raise errors.BadInput(
      f"data.name {config.data.name!r} is not known; use emoji."
    )
  return pipeline.make(
    batch_size=config.train.batch_size,
    seed=config.seed,
    resolution=config.stage.resolution,
    low_resolution=config.stage.low_resolution or None,
    crop=config.data.crop or None,
  )


def train(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Trains `config.stage` in `workdir`, from its newest checkpoint if any."""
  folder = files.check_writable(workdir)
  record.check_same_stage(folder, plain(config))
  stage_ = stage(config.stage)
  sampler(config.sampler)
  rule = optimizer(config)
  embed, encoder_fingerprint = _embed(config)
  batches = source(config)
  key = jax.random.key(config.seed)
  shapes = stage_lib.param_shapes(stage_)
  hashes = {"encoder": encoder_fingerprint, "data": batches.fingerprint}
  record.write_run(folder, plain(config), hashes)

  def make_state() -> state_lib.TrainState:
    params = stage_lib.init(stage_, rng.key_for(key, "init"))
    return state_lib.create(params, rule)

  def prepare(batch: loop.Batch) -> dict:
    text_emb, text_mask = embed(batch["caption"])
    images = {n: batch[n] for n in ("image", "x_lr") if n in batch}
    return images | {"text_emb": text_emb, "text_mask": text_mask}

  loop.train(
    make_state=make_state,
    abstract_state=state_lib.abstract(shapes, rule),
    train_step=step_lib.make_train_step(
      stage_, rule, ema_decay=config.train.ema_decay
    ),
    source=batches,
    prepare=prepare,
    key=rng.key_for(key, "train"),
    workdir=folder,
    options=_options(config),
    evaluators=_previews(config, stage_, batches, embed),
  )


def _previews(
  config: ml_collections.ConfigDict,
  stage_: stage_lib.Stage,
  batches: pipeline.Pipeline,
  embed: embedded.Embed,
) -> list[sample_grid.SampleGrid]:
  """The sample grid of `config.preview`, from held-out pairs."""
  if not config.preview.every:
    return []
  shown = pipeline.showcase(batches)
  text_emb, text_mask = embed(shown["caption"])
  cond = {"text_emb": text_emb, "text_mask": text_mask}
  if "x_lr" in shown:
    cond["x_lr"] = shown["x_lr"]
  cond = jax.tree.map(jnp.asarray, cond)
  grid = sample_grid.SampleGrid(
    stage=stage_,
    cond=cond,
    settings=sampler(config.sampler),
    every=config.preview.every,
    columns=len(shown["caption"]),
  )
  return [grid]


def _options(config: ml_collections.ConfigDict) -> loop.Options:
  fields = plain(config.train)
  del fields["ema_decay"]
  return _construct(loop.Options, fields, "train")


def _construct(kind: type, fields: dict, where: str):
  """`kind(**fields)`, where an unknown field names its near misses."""
  known = [f.name for f in dataclasses.fields(kind) if f.init]
  for name in fields:
    if name not in known:
      near = difflib.get_close_matches(name, known, 3) or known
      raise errors.BadInput(
        f"{where}.{name} is not a field; did you mean {', '.join(near)}?"
      )
  return kind(**{name: _hashable(value) for name, value in fields.items()})


def _hashable(value):
  """Lists as tuples: a linen module with a list field cannot be hashed."""
  if isinstance(value, list | tuple):
    return tuple(_hashable(item) for item in value)
  return value


def _plain_value(value):
  if isinstance(value, Mapping):
    return plain(value)
  if isinstance(value, list | tuple):
    return [_plain_value(item) for item in value]
  if isinstance(value, np.generic):
    return value.item()
  return value
