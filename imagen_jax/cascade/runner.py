"""One stage drawn in calls of a few steps: begin, advance, finish.

So a stage compiles once for a size of batch, progress can be shown in between,
and no host callback keeps its programs out of JAX's persistent cache. `draw` is
the whole for one chunk of images on a host.

An editor gives what else a run needs (`Start`): images to begin from instead of
noise, a function that sees z after every step, to keep what is known, and
another size, of which the network sees a tile at a time.
"""

import operator
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, rng
from imagen_jax.core.arrays import Cond, Image, Keys, Params
from imagen_jax.diffusion import losses, sampling, tiling

# At most so many steps in one call; the host hears of progress in between.
_STEPS_A_CALL = 4


class Run(NamedTuple):
  """A stage on its way, between two calls."""

  state: sampling.State
  cond: Cond
  keys: Keys  # of the steps


class Start(NamedTuple):
  """What a run is given beside its conditioning; by default nothing."""

  z: Image | None = None  # z at the first step taken; None is noise at t = 1
  first: int = 0  # steps that are left out, the noisiest
  edit: sampling.Edit | None = None  # what z becomes after each step
  size: tuple[int, int] | None = None  # height, width; None: the stage's
  tile: int | None = None  # pixels a side that the network sees; None: all


@runtime_checkable
class Layout(Protocol):
  """Where arrays lie on several devices; hashable, and holds none itself."""

  @property
  def parts(self) -> int:
    """How many parts a batch is cut into, which must divide it."""
    ...

  def put(self, rows: jax.Array | np.ndarray) -> jax.Array:
    """An array [b ...] of a host, on the devices."""
    ...

  def images(self, x: Image) -> Image:
    """Inside jit: images where they lie."""
    ...

  def denoise_fn(
    self, stage: stage_lib.Stage, params: Params
  ) -> losses.DenoiseFn:
    """Inside jit: the network of parameters that lie on the devices."""
    ...


def groups(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  *,
  first: int = 0,
) -> list[sampling.Plan]:
  """The numbers of all steps from `first` on, some at a time, all alike."""
  return split(sampling.plan(settings, stage.schedule, first=first))


def split(plan: sampling.Plan) -> list[sampling.Plan]:
  """The rows of a plan in groups of one size, at most four."""
  steps = len(plan.step)
  if not steps:
    return []
  size = steps_a_call(steps)
  parts = jax.tree.map(lambda rows: rows.reshape(-1, size), plan)
  return [
    jax.tree.map(operator.itemgetter(i), parts) for i in range(steps // size)
  ]


def steps_a_call(steps: int) -> int:
  """The largest number up to 4 that divides steps: each call has as many."""
  return max(n for n in range(1, _STEPS_A_CALL + 1) if steps % n == 0)


@partial(jax.jit, static_argnums=(0, 1), static_argnames=("size", "layout"))
def begin(
  stage: stage_lib.Stage,
  aug_level: float,
  cond: Cond,
  keys: Keys,
  x_lr: Float[Array, "b p q c"] | None,
  z: Image | None = None,
  size: tuple[int, int] | None = None,
  layout: Layout | None = None,
) -> Run:
  """Noise at t = 1 or `z`, the conditioning, and the keys of the steps."""
  cond = stage_lib.sampling_cond(stage, cond, keys, aug_level, x_lr)
  keys = rng.each_key_for(keys, stage.name)
  h, w = size or (stage.resolution, stage.resolution)
  state = sampling.init(keys, (h, w, 3), z=z)
  if layout is not None:
    state = jax.tree.map(layout.images, state)
  return Run(state, cond, keys)


@partial(jax.jit, static_argnums=(0, 1), static_argnames=("tile", "layout"))
def advance(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  run: Run,
  rows: sampling.Plan,
  edit: sampling.Edit | None = None,
  tile: int | None = None,
  layout: Layout | None = None,
) -> Run:
  """Some steps of a run, those of `rows`."""
  network = stage_lib if layout is None else layout
  denoise = network.denoise_fn(stage, params)
  state, _ = sampling.advance(
    denoise if tile is None else tiling.tiled(denoise, tile),
    run.state,
    run.cond,
    run.keys,
    rows,
    prediction=stage.prediction,
    settings=settings,
    edit=edit,
  )
  if layout is not None:
    state = jax.tree.map(layout.images, state)
  return run._replace(state=state)


def draw(
  stage: stage_lib.Stage,
  settings: sampling.SamplerSettings,
  params: Params,
  cond: Cond,
  keys: Keys,
  x_lr: Float[np.ndarray, "b p q c"] | None = None,
  *,
  plans: Sequence[sampling.Plan] | None = None,
  start: Start = Start(),  # noqa: B008 (immutable)
  progress: sampling.Progress | None = None,
  layout: Layout | None = None,
) -> Float[np.ndarray, "b h w c"]:
  """Images in [-1, 1] on the host, a group of `plans` a call.

  `plans` are by default those of `groups`; `layout` is of several devices, and
  of `params` there. Raises NonFinite.
  """
  if plans is None:
    plans = groups(stage, settings, first=start.first)
  if layout is not None:
    cond, keys, x_lr = jax.tree.map(layout.put, (cond, keys, x_lr))
  run = begin(
    stage,
    settings.aug_level,
    cond,
    keys,
    x_lr,
    start.z,
    size=start.size,
    layout=layout,
  )
  done = 0
  for rows in plans:
    run = advance(
      stage,
      settings,
      params,
      run,
      rows,
      start.edit,
      tile=start.tile,
      layout=layout,
    )
    done += len(rows.step)
    if progress is not None:
      jax.block_until_ready(run.state)
      progress(done)
  images = np.asarray(sampling.finish(run.state), np.float32)
  if not np.isfinite(images).all():
    raise errors.NonFinite(
      f"stage {stage.name!r} made images that are not finite; its weights are"
      " damaged or its settings too strong: try a lower guidance_weight."
    )
  return images
