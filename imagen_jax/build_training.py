"""A training run from its config: what `imagen train` does.

`build.py` makes the parts that other commands use, too; here they are put
together: data, text, step, guards, writers, evaluators, and the checks that go
before any of it. All that can be refused is refused before anything compiles.
"""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import ml_collections
from etils import epath

from imagen_jax import build, build_adapters, build_data, build_step
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, files, rng, tree
from imagen_jax.core.arrays import Params
from imagen_jax.data import image_pipeline, pipeline, rejects
from imagen_jax.evals import prompt_swap, sample_grid, sr_consistency
from imagen_jax.nn import param_init
from imagen_jax.text import embedded, embedding
from imagen_jax.train import (
  checkpoints,
  events,
  flops,
  loop,
  lora,
  processes,
  profiler,
  record,
  sharding,
  step_folders,
  writers,
)
from imagen_jax.train import evaluator as evaluator_lib
from imagen_jax.train import state as state_lib


class Text(NamedTuple):
  """Captions to embeddings, and the fingerprint of the encoder's weights."""

  embed: embedded.Embed
  fingerprint: str


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  allow_change: Collection[str] = (),
  allow_dtype_cast: bool = False,
  watchdog_minutes: float | None = None,
) -> None:
  """Trains `config.stage` in `workdir`, from its newest checkpoint if any.

  `allow_change` names fields that may differ from the checkpoint's.
  """
  folder = files.check_writable(workdir)
  stage = build.stage(config.stage)
  build.sampler(config.sampler)
  trace = _profiler(config, folder)
  build_adapters.check(config)
  mesh = build.mesh(config)
  program = build_step.make(config, stage, mesh)
  checkpoints.check_space(folder, program.state)
  base = None
  if program.base is not None:
    base = build_adapters.base(config, stage, _placing(program.base))
  told = events.Events(folder)
  batches = build_data.source(config, report=_report_to(told))
  words = text(config)
  hashes = {"data": batches.fingerprint, "encoder": words.fingerprint}
  if base is not None:
    hashes["base"] = lora.digest(base)
  _check_run(config, folder, hashes, allow_change)
  key = jax.random.key(config.seed)

  def make_state() -> state_lib.TrainState:
    init_key, place = rng.key_for(key, "init"), _placing(program.state.params)
    params = build_adapters.initial_params(config, stage, init_key, place)
    return build_step.create(program, params)

  def prepare(batch: loop.Batch) -> dict:
    own = batch if _is_cut(batches) else processes.cut(batch)
    text_emb, text_mask = words.embed(own["caption"])
    cond = {n: own[n] for n in ("image", "x_lr", "weight") if n in own}
    cond |= {"text_emb": text_emb, "text_mask": text_mask}
    return sharding.share(cond, mesh)

  loop.train(
    make_state=make_state,
    abstract_state=program.state,
    train_step=functools.partial(program.step, base=base),
    source=batches,
    prepare=prepare,
    key=rng.key_for(key, "train"),
    workdir=folder,
    options=_options(config, allow_dtype_cast, watchdog_minutes),
    evaluators=build_adapters.of_the_whole(
      config, base, evaluators(config, stage, batches, words.embed, mesh)
    ),
    make_writers=functools.partial(
      writers.make,
      wandb_project=config.log.wandb,
      config=build.plain(config),
    ),
    profiler=trace,
    flops_per_image=flops.TRAINING
    * flops.forward_flops(
      stage,
      length=config.text.max_length,
      resolution=config.data.crop or None,
    ),
  )


def text(config: ml_collections.ConfigDict) -> Text:
  """From the store if there is one, and then no encoder is loaded."""
  if config.data.store:
    opened = build.store(config)
    return Text(opened.embed, opened.manifest.identity.weights)
  loaded, params = build.encoder(config.text)
  if loaded.width != config.stage.text_width:
    raise errors.BadInput(
      f"stage.text_width is {config.stage.text_width}, but the encoder"
      f" {loaded.name} gives {loaded.width}; set"
      f" --config.stage.text_width={loaded.width}."
    )
  return Text(embedding.memo(loaded, params), loaded.fingerprint)


def evaluators(
  config: ml_collections.ConfigDict,
  stage: stage_lib.Stage,
  batches: pipeline.Pipeline | image_pipeline.ImagePipeline,
  embed: embedded.Embed,
  mesh: jax.sharding.Mesh,
) -> list[evaluator_lib.Evaluator]:
  """What looks at the run every `config.preview.every` steps."""
  every = config.preview.every
  if not every or jax.process_count() > 1:
    return []
  if isinstance(batches, image_pipeline.ImagePipeline):
    shown = image_pipeline.showcase(batches)
  else:
    shown = pipeline.showcase(batches)
  text_emb, text_mask = embed(shown["caption"])
  cond = {"text_emb": text_emb, "text_mask": text_mask}
  if "x_lr" in shown:
    cond["x_lr"] = shown["x_lr"]
  whole = sharding.replicated(mesh)
  cond = {name: sharding.put_leaf(x, whole) for name, x in cond.items()}
  settings = build.sampler(config.sampler)
  measures = [sr_consistency.measure] if "x_lr" in cond else []
  looks: list[evaluator_lib.Evaluator] = [
    sample_grid.SampleGrid(
      stage=stage,
      cond=cond,
      settings=settings,
      every=every,
      columns=len(shown["caption"]),
      measures=measures,
    )
  ]
  if len(set(shown["caption"])) > 1:  # a subject may have one prompt alone
    looks.append(
      prompt_swap.PromptSwap(
        stage=stage,
        x0=sharding.put_leaf(shown["image"], whole),
        cond=cond,
        every=every,
        aug_level=settings.aug_level,
      )
    )
  return looks


def _check_run(
  config: ml_collections.ConfigDict,
  folder: epath.Path,
  hashes: dict[str, str],
  allow_change: Collection[str],
) -> None:
  """Refuses a run that would go on as another; tells what it is."""
  plain = build.plain(config)
  processes.check_agreement(
    hashes
    | {"config": record.config_hash(plain), "code": processes.code_hash()}
  )
  if saved := step_folders.recorded(folder):
    record.check_resume(
      saved, {"config": plain, "hashes": hashes}, allow_change
    )
  if processes.is_first():
    record.write_run(folder, plain, hashes)


def _placing(abstract: Params) -> param_init.Place:
  """Puts each parameter where its shape says it lies."""
  shardings = {n: x.sharding for n, x in tree.flatten(abstract).items()}
  return lambda name, values: sharding.put_leaf(values, shardings[name])


def _profiler(
  config: ml_collections.ConfigDict, folder: epath.Path
) -> profiler.Profiler | None:
  if not config.profile.steps:
    return None
  return profiler.Profiler(
    folder / profiler.FOLDER,
    first=config.profile.first,
    count=config.profile.steps,
    last=config.train.steps,
  )


def _report_to(told: events.Events) -> Callable[[rejects.Reject, int], None]:
  def report(reject: rejects.Reject, step: int) -> None:
    told("reject", step, f"{reject.key}: {reject.reason}")

  return report


def _is_cut(batches: loop.Source) -> bool:
  """Whether the source makes this process's rows alone."""
  return isinstance(batches, image_pipeline.ImagePipeline)


def _options(
  config: ml_collections.ConfigDict,
  allow_dtype_cast: bool,
  watchdog_minutes: float | None,
) -> loop.Options:
  fields = build.plain(config.train)
  for name in ("ema_decay", "micro_batches", "spike_deviations"):
    del fields[name]
  fields["allow_dtype_cast"] = allow_dtype_cast
  if watchdog_minutes is not None:
    fields["watchdog_minutes"] = watchdog_minutes
  return build.construct(loop.Options, fields, "train")
