"""What a run trains of its stage: all parameters, or adapters on a base.

With `config.lora.rank` 0 the state holds the stage's parameters; else adapters
of that rank alone, and the base that `config.start` names stays beside it, in
neither state nor checkpoint. Three trees, then: what is trained, the base, and
the network's parameters, which `binder` makes of the two. A student's teacher
is such a base, too, to which nothing is added (`build_distilling.py`).
"""

from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from imagen_jax import build, build_distilling
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.core.arrays import Key, Params
from imagen_jax.nn import param_init
from imagen_jax.train import evaluator as evaluator_lib
from imagen_jax.train import initial, lora
from imagen_jax.train import step as step_lib


def rank(config: build.Config) -> int:
  """Of the adapters; 0 where all parameters are trained."""
  return config.get("lora", {}).get("rank", 0)  # configs of before lack it


def has_base(config: build.Config) -> bool:
  """Whether parameters that stay as they are take part."""
  return rank(config) > 0 or build_distilling.is_on(config)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises BadInput where there is nothing to start from, or to adapt."""
  needed = config.start.get("required") or has_base(config)
  if needed and not config.start.source:
    raise errors.BadInput(
      "start.source is empty, and this config trains on from trained weights;"
      " give --config.start.source=PATH, a stage file of `imagen export` or the"
      " workdir of a run."
    )
  if rank(config) and config.start.fresh:
    raise errors.BadInput(
      "start.fresh draws parameters anew, which adapters would not train; use"
      " lora.rank=0."
    )


def shapes(config: build.Config, stage: stage_lib.Stage) -> Params:
  """Of what is trained; nothing is allocated."""
  whole = stage_lib.param_shapes(stage)
  if not rank(config):
    return whole
  return jax.eval_shape(
    lambda key: _create(config, whole, key), jax.random.key(0)
  )


def initial_params(
  config: build.Config,
  stage: stage_lib.Stage,
  key: Key,
  place: param_init.Place = param_init.on_device,
) -> Params:
  """What training begins with: drawn, of `config.start`, or new adapters."""
  if rank(config):
    adapters = _create(config, stage_lib.param_shapes(stage), key)
    return tree.map_named(lambda n, x: place(n, np.asarray(x)), adapters)
  if not config["start"]["source"]:
    return stage_lib.init(stage, key, place)
  return _source(config, stage, key, place)


def base(
  config: build.Config,
  stage: stage_lib.Stage,
  place: param_init.Place = param_init.on_device,
) -> Params | None:
  """What adapters are added to, or the teacher: that of `config.start`."""
  if not has_base(config):
    return None
  return _source(config, stage, jax.random.key(0), place)


def binder(config: build.Config) -> step_lib.Bind:
  """(what is trained, the base) -> the network's parameters."""
  if not rank(config):
    return lambda params, _: params
  alpha = config["lora"]["alpha"]
  return lambda adapters, whole: lora.apply(whole, adapters, alpha=alpha)


def of_the_whole(
  config: build.Config,
  base: Params | None,
  evaluators: Sequence[evaluator_lib.Evaluator],
) -> Sequence[evaluator_lib.Evaluator]:
  """The evaluators, looking at the base with its adapters where it has any."""
  if base is None or not rank(config):
    return evaluators
  alpha = config["lora"]["alpha"]
  return [lora.WithBase(look, base, alpha) for look in evaluators]


def _create(config: build.Config, whole: Params, key: Key) -> Params:
  fields = config["lora"]
  return lora.create(
    whole, key, rank=fields["rank"], rules=tuple(fields["rules"])
  )


def _source(
  config: build.Config,
  stage: stage_lib.Stage,
  key: Key,
  place: param_init.Place,
) -> Params:
  start = config["start"]
  return initial.initial_params(
    stage,
    start["source"],
    key=key,
    which=start["which"],
    fresh=tuple(start["fresh"]),
    place=place,
  )
