"""What `imagen doctor` examines: the parts of a run, each made when asked for.

What cannot be made raises, and is asked for again by the next check; only what
was made is kept.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import optax
from etils import epath

from imagen_jax import build, build_adapters, build_data, build_training
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng
from imagen_jax.core.arrays import Cond, Params
from imagen_jax.data import batch as batch_lib
from imagen_jax.data import image_pipeline, pipeline
from imagen_jax.diffusion import sampling
from imagen_jax.health import checkpoint, findings
from imagen_jax.text import embedded
from imagen_jax.train import restore, step_folders
from imagen_jax.train import state as state_lib

_SHOWN = 8  # images of prompt swap, of which the first are drawn


@dataclasses.dataclass(frozen=True)
class Options:
  """What the command line says, beside config and workdir."""

  config_name: str = ""
  overfit_images: int = 8
  overfit_steps: int = 200
  quick: bool = False
  bands: str | None = None
  sheet: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
  """A config, and the workdir of its run, if it has one."""

  config: ml_collections.ConfigDict
  workdir: epath.Path | None
  options: Options

  @functools.cached_property
  def stage(self) -> stage_lib.Stage:
    """What is trained."""
    return build.stage(self.config.stage)

  @functools.cached_property
  def settings(self) -> sampling.SamplerSettings:
    """How it is sampled."""
    return build.sampler(self.config.sampler)

  @functools.cached_property
  def abstract(self) -> state_lib.TrainState:
    """The shapes of a state."""
    shapes = build_adapters.shapes(self.config, self.stage)
    return state_lib.abstract(shapes, build.optimizer(self.config))

  @functools.cached_property
  def source(self) -> pipeline.Pipeline | image_pipeline.ImagePipeline:
    """The batches of training."""
    return build_data.source(self.config)

  @functools.cached_property
  def batch(self) -> batch_lib.HostBatch:
    """The first batch of training."""
    return self.source.batch_at(0)

  @functools.cached_property
  def text(self) -> build_training.Text:
    """The store, or else the encoder."""
    return build_training.text(self.config)

  @functools.cached_property
  def embedded(self) -> embedded.Embedded:
    """The captions of the first batch."""
    return self.text.embed(self.batch["caption"])

  def as_run(self) -> dict:
    """Config and fingerprints, as a checkpoint keeps them."""
    hashes = {"data": self.source.fingerprint, "encoder": self.text.fingerprint}
    return {"config": build.plain(self.config), "hashes": hashes}

  @functools.cached_property
  def damaged(self) -> dict[int, list[str]]:
    """What is wrong with each step; if quick the newest alone."""
    steps = step_folders.steps_in(self.workdir / step_folders.FOLDER)
    looked_at = steps[-1:] if self.options.quick else steps
    return {step: checkpoint.damage(self.workdir, step) for step in looked_at}

  @property
  def step(self) -> int | None:
    """The newest step that was looked at and is whole."""
    if self.workdir is None:
      return None
    whole = [step for step, found in self.damaged.items() if not found]
    return max(whole, default=None)

  @functools.cached_property
  def leaves(self) -> findings.Finding | None:
    """Whether the state of `step` fits the config; None without a step."""
    if self.step is None:
      return None
    return checkpoint.leaves(self.workdir, self.step, self.abstract)

  @property
  def has_params(self) -> bool:
    """Whether there are parameters to read."""
    return self.leaves is not None and self.leaves.level == "ok"

  @functools.cached_property
  def raw(self) -> Params:
    """The parameters of `step`."""
    return self._restored("raw")

  @functools.cached_property
  def ema(self) -> Params:
    """Their moving average."""
    return self._restored("ema")

  def _restored(self, which: restore.Which) -> Params:
    found = restore.restore_params(
      self.workdir,
      self.abstract.params,
      which=which,
      step=self.step,
      verify=False,  # `damaged` has
    )
    return self._whole(found.params)

  def initial(self) -> Params:
    """What training began with."""
    key = rng.key_for(jax.random.key(self.config.seed), "init")
    params = build_adapters.initial_params(self.config, self.stage, key)
    return self._whole(params)

  def _whole(self, params: Params) -> Params:
    """What the network takes, where a run trains adapters."""
    base = build_adapters.base(self.config, self.stage)
    return build_adapters.binder(self.config)(params, base)

  @functools.cached_property
  def shown(self) -> tuple[batch_lib.HostBatch, Cond]:
    """Whole images of the first captions of training, and their cond."""
    batch = build_data.source(self._with(_SHOWN, crop=0)).batch_at(0)
    cond = self._cond(batch)
    del cond["image"]
    return batch, cond

  def few(self, count: int) -> Cond:
    """A training batch of `count`."""
    config = self._with(count, crop=self.config.data.crop)
    return self._cond(build_data.source(config).batch_at(0))

  def quick_rule(self, steps: int) -> optax.GradientTransformation:
    """The config's optimizer, warm after a tenth of `steps`, all trainable."""
    config = self._with(1, crop=0)
    config.optimizer.update(
      {"warmup_steps": steps // 10, "decay": "constant", "rules": ()}
    )
    return build.optimizer(config)

  def _with(self, batch_size: int, *, crop: int) -> ml_collections.ConfigDict:
    config = self.config.copy_and_resolve_references()
    config.train.batch_size = batch_size
    config.data.crop = crop
    return config

  def _cond(self, batch: batch_lib.HostBatch) -> Cond:
    text_emb, text_mask = self.text.embed(batch["caption"])
    cond = {name: batch[name] for name in ("image", "x_lr") if name in batch}
    cond |= {"text_emb": text_emb, "text_mask": text_mask}
    return jax.tree.map(jnp.asarray, cond)
