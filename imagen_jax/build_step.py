"""A training step from its config: one program on a mesh, for runs and plans.

What a run executes is what `imagen plan` compiles: both take it from here.
"""

import functools
from typing import NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from imagen_jax import build, build_adapters, build_distilling
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import tree
from imagen_jax.core.arrays import Params
from imagen_jax.train import compiler_options, layout, optimizers, sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

# Bytes of gathered parameters that a chip keeps between the way there and the
# way back, rather than gather them again: a third of what travels.
_KEPT = 2 << 30


class Program(NamedTuple):
  """The step and the shapes of what it takes, which say where each lies."""

  step: step_lib.TrainStep  # jitted; takes over the memory of the state
  rule: optax.GradientTransformation
  state: state_lib.TrainState  # of ShapeDtypeStructs
  base: Params | None  # adapted, or the teacher: the last argument
  mesh: Mesh


def make(
  config: ml_collections.ConfigDict, stage: stage_lib.Stage, mesh: Mesh
) -> Program:
  """Nothing is allocated or compiled; all that is wrong raises BadInput."""
  rule, rules = build.optimizer(config), build.rules(config)
  shapes = build_adapters.shapes(config, stage)
  if rules:
    optimizers.factors(shapes, rules)
  sharding.check_batch(
    config.train.batch_size, config.train.micro_batches, mesh
  )
  whole = stage_lib.param_shapes(stage)
  whole = sharding.abstract(
    whole, sharding.params_shardings(whole, mesh, build.mesh_rules(config))
  )
  adapted = build_adapters.rank(config) > 0
  distilling = build_distilling.loss(config)
  # Adapters have names of their own, and are small.
  cuts = ((".*", "fsdp"),) if adapted else build.mesh_rules(config)
  state = state_lib.abstract(shapes, rule)
  state = sharding.abstract(
    state, sharding.state_shardings(state, shapes, mesh, cuts)
  )
  step = step_lib.make_train_step(
    stage,
    rule,
    ema_decay=config.train.ema_decay,
    micro_batches=config.train.micro_batches,
    spike_deviations=config.train.spike_deviations,
    freeze=functools.partial(
      _as_they_lie, rules=rules, shardings=_shardings(state.params)
    ),
    bind=functools.partial(
      _bound, build_adapters.binder(config), stage, _shardings(whole)
    ),
    learning_rate=build.learning_rate(config),
    # A policy around the whole would undo the blocks' own.
    gather_again=mesh.shape["fsdp"] > 1
    and stage.module.remat == "none"
    and _gathered_bytes(whole, stage) > _KEPT,
    distilling=distilling,
  )
  jitted = jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(_shardings(state), None),
    compiler_options=compiler_options.of_mesh(mesh),
  )
  base = whole if build_adapters.has_base(config) else None
  return Program(jitted, rule, state, base, mesh)


def create(program: Program, params: Params) -> state_lib.TrainState:
  """The state before the first step, each leaf made where it lies."""
  new = jax.jit(
    functools.partial(state_lib.create, optimizer=program.rule),
    out_shardings=_shardings(program.state),
  )
  return new(params)


def _as_they_lie(
  grads: Params, rules: optimizers.Rules, shardings: Params
) -> Params:
  """Gradients cut as their parameters are: each device sums its part alone."""
  frozen = optimizers.freeze(grads, rules)
  return jax.lax.with_sharding_constraint(frozen, shardings)


def _bound(
  bind: step_lib.Bind,
  stage: stage_lib.Stage,
  shardings: Params,
  params: Params,
  base: Params | None,
) -> Params:
  """The network's parameters, whole to be used."""
  places = tree.flatten(shardings)
  return layout.whole(bind(params, base), places, stage.module.dtype)


def _gathered_bytes(params: Params, stage: stage_lib.Stage) -> int:
  """Of what a chip holds once all that lies cut over `fsdp` is gathered."""
  total = 0
  for name, leaf in tree.flatten(params).items():
    if "fsdp" in leaf.sharding.spec:
      tensor = leaf.sharding.mesh.shape["tensor"]
      parts = tensor if "tensor" in leaf.sharding.spec else 1
      used = layout.used_dtype(name, leaf, stage.module.dtype)
      total += leaf.size * used.itemsize // parts
  return total


def _shardings(abstract: Params | state_lib.TrainState):
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)
