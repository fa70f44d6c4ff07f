"""The reader of configs: ConfigDict -> stage, encoder, optimizer.

`build_data.py` has the batches, `build_training.py` makes a run of all.

A config has the fields of `configs/demo.py`. Field names of `stage.fields` are
those of the network's module (Appendix F), so a module's own fields are the
schema and a wrong one is an error that names the right ones.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from imagen_jax.cascade import folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files
from imagen_jax.core.arrays import Params
from imagen_jax.diffusion import (
  parameterization,
  sampling,
  schedules,
  weighting,
)
from imagen_jax.models import variants
from imagen_jax.text import encoders, packages, store_format
from imagen_jax.text import store as store_lib
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import optimizers, sharding
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
  "padding": "zero",  # "states": the encoder's on padded tokens
}


def plain(config: Config) -> dict:
  """A config as nested dicts and lists, as JSON holds it."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return {name: _plain_value(value) for name, value in config.items()}


def stage(config: Config) -> stage_lib.Stage:
  """`config.stage` (a ConfigDict, or the dict stored with weights)."""
  fields = plain(config)
  dtype = _dtype(fields.pop("dtype"))
  module = variants.build(
    fields.pop("network"), fields.pop("fields") | {"dtype": dtype}
  )
  parameterization.check_prediction(fields["prediction"])
  weighting.check_weighting(fields["weighting"])
  fields["schedule"] = schedules.by_name(fields["schedule"])
  fields["low_resolution"] = fields["low_resolution"] or None
  built = construct(stage_lib.Stage, fields | {"module": module}, "stage")
  stage_lib.check(built)
  return built


def sampler(config: Config) -> sampling.SamplerSettings:
  """`config.sampler`."""
  settings = construct(sampling.SamplerSettings, plain(config), "sampler")
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
  samplers = {
    name: {n: value for n, value in given.items() if value is not None}
    for name, given in fields.get("samplers", {}).items()
  }
  samplers = {name: said for name, said in samplers.items() if said}
  if unknown := samplers.keys() - set(description.names):
    raise errors.BadInput(
      f"samplers.{sorted(unknown)[0]} is of no stage; the stages are"
      f" {', '.join(description.names)}."
    )
  merged = []
  for entry in description.stages:
    merged.append(entry.sampler | samplers.get(entry.info.name, {}))
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
    padding=fields["padding"],
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


def optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """`config.optimizer`, over `config.train.steps`."""
  fields = plain(config.optimizer)
  schedule = learning_rate(config)
  for name in ("learning_rate", "warmup_steps", "decay"):
    del fields[name]
  fields["rules"] = rules(config)
  return optimizers.make(fields.pop("name"), schedule, **fields)


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
  """Of `config.optimizer`: updates that were made -> learning rate."""
  fields = config.optimizer
  optimizers.check(fields.name, fields.decay)
  return optimizers.learning_rate_schedule(
    fields.learning_rate,
    warmup_steps=fields.warmup_steps,
    decay=fields.decay,
    total_steps=config.train.steps,
  )


def mesh(
  config: Config, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """`config.mesh`, of the given devices, or of all there are."""
  fields = plain(config["mesh"])
  count = fields.pop("devices")
  del fields["rules"]
  if count and devices is None:
    devices = jax.devices()[:count]
    if len(devices) < count or jax.process_count() > 1:
      raise errors.BadInput(
        f"mesh.devices is {count}, and this run has {jax.device_count()} in"
        f" {jax.process_count()} processes; 0 is all of them, and other numbers"
        " are for one process."
      )
  return mesh_lib.make(construct(mesh_lib.MeshSizes, fields, "mesh"), devices)


def mesh_rules(config: Config) -> sharding.Rules:
  """`config.mesh.rules`: (pattern of parameter names, tactic)."""
  return tuple((str(p), str(tactic)) for p, tactic in config["mesh"]["rules"])


def rules(config: ml_collections.ConfigDict) -> optimizers.Rules:
  """`config.optimizer.rules`: (pattern, factor of the learning rate)."""
  return tuple(
    (str(pattern), float(factor)) for pattern, factor in config.optimizer.rules
  )


def construct(kind: type, fields: dict, where: str):
  """`kind(**fields)`, where an unknown field names its near misses."""
  known = [f.name for f in dataclasses.fields(kind) if f.init]
  for name in fields:
    if name not in known:
      near = difflib.get_close_matches(name, known, 3) or known
      raise errors.BadInput(
        f"{where}.{name} is not a field; did you mean {', '.join(near)}?"
      )
  return kind(**{name: _hashable(value) for name, value in fields.items()})


def _dtype(name: str) -> np.dtype:
  try:
    return jnp.dtype(name)
  except TypeError as error:
    raise errors.BadInput(
      f"stage.dtype {name!r} is not known; use float32 or bfloat16."
    ) from error


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
