"""The library's front door: a cascade from disk, images from prompts.

  import imagen_jax as ij
  cascade, params = ij.load_cascade()             # the demo that is shipped
  images = ij.sample(cascade, params, ["a 3D render of a crab on a navy blue"
                     " background"], jax.random.key(0))       # in [-1, 1]

Floor 9.2, above `build.py`, which makes stages from the configs that stage
files carry, and below the command line, which adds flags and files.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float

from imagen_jax import build
from imagen_jax.cascade import edits, folder, pipeline, sampling_memory
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, memory, tree
from imagen_jax.core.arrays import Key, Params
from imagen_jax.diffusion import sampler_settings, sampling
from imagen_jax.text import embedded, embedding, encoders
from imagen_jax.train import layout as layout_lib

DEMO = pathlib.Path(__file__).parent / "assets" / "demo"
BATCH_SIZE = 8


def load_cascade(
  config_or_path: build.Config | str | os.PathLike | None = None,
  *,
  dtype: str | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[pipeline.Cascade, pipeline.CascadeParams]:
  """A cascade and its parameters: a folder, a config, or the shipped demo.

  `dtype` is that of the computation: by default float32 on a CPU, which is slow
  in bfloat16, and what the stage was trained with elsewhere. `mesh` is of the
  devices to lie on, as `train/mesh.make` makes it; without it there is one.
  """
  return load(describe(config_or_path), dtype=dtype, mesh=mesh)


def sample(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  prompts: str | Sequence[str],
  key: Key,
  *,
  num_samples: int = 1,
  batch_size: int = BATCH_SIZE,
  progress: pipeline.Progress | None = None,
  edit: edits.Edit = edits.NONE,
  negative_prompt: str = "",
) -> Float[np.ndarray, "n h w 3"]:
  """`num_samples` images of each prompt in [-1, 1], prompt after prompt.

  Guidance leads away from `negative_prompt`, or from no text if it is blank.

  Image i of a prompt depends on (weights, prompt, key, i, settings) alone, and
  on the image in `edit`, if there is one: on a CPU to the bit, elsewhere as
  closely as programs of two batch sizes agree.
  """
  parts = images(
    cascade,
    params,
    prompts,
    key,
    indices=range(num_samples),
    batch_size=batch_size,
    progress=progress,
    edit=edit,
    negative_prompt=negative_prompt,
  )
  last = len(cascade.stages) - 1
  return np.concatenate([part.images for part in parts if part.stage == last])


def images(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  prompts: str | Sequence[str],
  key: Key,
  *,
  indices: Sequence[int],
  batch_size: int = BATCH_SIZE,
  progress: pipeline.Progress | None = None,
  edit: edits.Edit = edits.NONE,
  negative_prompt: str = "",
) -> Iterator[pipeline.Chunk]:
  """Images number `indices` of each prompt, of every stage, as they are made.

  Image j of a stage is number indices[j % n] of prompt j // n.
  """
  prompts = [prompts] if isinstance(prompts, str) else list(prompts)
  n = len(indices)
  if not prompts or not n:
    raise errors.BadInput(
      f"{len(prompts)} prompts and {n} images of each; give one at least."
    )
  sampling_memory.check(
    cascade,
    images=n * len(prompts),
    batch_size=batch_size,
    host=memory.host_bytes(),
    device=memory.device_bytes(),
  )
  text_emb, text_mask = embed(cascade, params, prompts)
  params = against(cascade, params, negative_prompt)
  numbers = jnp.asarray(list(indices) * len(prompts), jnp.int32)
  try:
    yield from pipeline.chunks(
      cascade,
      params,
      np.repeat(text_emb, n, axis=0),
      np.repeat(text_mask, n, axis=0),
      pipeline.image_keys(key, numbers),
      batch_size=batch_size,
      progress=progress,
      edit=edit,
    )
  except flax.errors.FlaxError:
    # Found while tracing: to trace once more for a check costs seconds.
    check_params(cascade, params)
    raise


def check_params(
  cascade: pipeline.Cascade, params: pipeline.CascadeParams
) -> None:
  """Raises CheckpointError where parameters do not fit their network."""
  for stage in cascade.stages:
    shapes = stage_lib.param_shapes(stage)
    used = layout_lib.as_used(shapes, stage.module.dtype)
    if difference := tree.diff(params[stage.name], used):
      rows = difference.splitlines()
      raise errors.CheckpointError(
        f"the weights of stage {stage.name!r} do not fit its network"
        f" ({len(rows)} differ, file | network): {'; '.join(rows[:3])}. Export"
        " the stage again with this version."
      )


def against(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  negative_prompt: str,
) -> pipeline.CascadeParams:
  """Parameters with which guidance leads away from a negative prompt.

  A blank one changes nothing.
  """
  check_negative(negative_prompt, cascade.settings)
  if not negative_prompt.strip():
    return params
  null = embed(cascade, params, [negative_prompt])
  return {**params, "null_text": {k: v[0] for k, v in null._asdict().items()}}


def check_negative(
  negative_prompt: str, settings: Sequence[sampling.SamplerSettings]
) -> None:
  """Raises BadInput for a negative prompt where no stage is guided."""
  guided = any(map(sampler_settings.is_guided, settings))
  if negative_prompt.strip() and not guided:
    raise errors.BadInput(
      f"negative prompt {negative_prompt!r} needs guidance, and guidance_weight"
      " is 1 in every stage; set one above 1."
    )


def embed(
  cascade: pipeline.Cascade,
  params: pipeline.CascadeParams,
  prompts: Sequence[str],
) -> embedded.Embedded:
  """Embeddings of prompts; a blank one is unconditional, all zeros.

  But where padding keeps its states a blank one is that of "", as IF has it.
  """
  text_emb, text_mask = embedding.embed(
    cascade.encoder, params["encoder"], prompts
  )
  if cascade.encoder.padding == "states":
    return embedded.Embedded(text_emb, text_mask)
  blank = np.array([not prompt.strip() for prompt in prompts])
  kept = np.where(blank[:, None, None], np.float32(0), text_emb)
  return embedded.Embedded(kept, text_mask)


def describe(
  config_or_path: build.Config | str | os.PathLike | None = None,
) -> folder.Description:
  """What `load_cascade` would load, checked but for the weights."""
  if config_or_path is None:
    if not (DEMO / folder.MANIFEST).exists():
      raise errors.BadInput(
        "no demo weights are in this copy of the package; give a folder that"
        " `imagen export` wrote."
      )
    return folder.read(DEMO)
  if isinstance(config_or_path, str | os.PathLike):
    return folder.read(config_or_path)
  return build.cascade(config_or_path, demo=DEMO)


def check(
  description: folder.Description,
) -> tuple[sampling.SamplerSettings, ...]:
  """The settings of each stage; BadInput for what is wrong with them."""
  settings = []
  for entry in description.stages:
    try:
      settings.append(build.sampler(entry.sampler))
    except errors.BadInput as error:
      raise errors.BadInput(f"stage {entry.info.name!r}: {error}") from error
    except TypeError as error:
      raise errors.BadInput(
        f"stage {entry.info.name!r}: a sampler setting of"
        f" {entry.sampler} has a wrong type ({error})."
      ) from error
  return tuple(settings)


def load(
  description: folder.Description,
  *,
  dtype: str | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[pipeline.Cascade, pipeline.CascadeParams]:
  """The cascade of a description, with its weights."""
  settings = check(description)
  layout = None if mesh is None else layout_lib.Layout(mesh)
  encoder, encoder_params = build.encoder(
    description.stages[0].info.text,
    description.encoder,
    sharding=None if layout is None else layout.encoder,
  )
  params: dict[str, Params] = {"encoder": encoder_params}
  if encoder.padding == "states":
    nothing = embedding.embed(encoder, encoder_params, [""])
    params["null_text"] = {"text_emb": nothing.text_emb[0]}
  stages = []
  for entry in description.stages:
    _check_encoder(entry, encoder)
    stage = make_stage(entry.info.stage, dtype)
    if layout is not None:
      layout.check([stage])
    loaded = layout_lib.as_used(
      folder.load_params(entry.path), stage.module.dtype
    )
    if layout is None:
      params[stage.name] = jax.tree.map(jnp.asarray, loaded)
    else:
      params[stage.name] = layout.put_params(loaded)
      logging.info("stage %s on %s", stage.name, layout.describe(loaded))
    stages.append(stage)
  # On a CPU a batch is hardly faster, and one program has the same bits.
  one = layout is None and jax.default_backend() == "cpu"
  cascade = pipeline.Cascade(
    tuple(stages), settings, encoder, layout, 1 if one else None
  )
  pipeline.check(cascade)
  return cascade, params


def make_stage(config: Mapping, dtype: str | None = None) -> stage_lib.Stage:
  """The stage of a config for this machine."""
  if dtype is None and jax.default_backend() == "cpu":
    dtype = "float32"
  return build.stage(dict(config) | ({"dtype": dtype} if dtype else {}))


def _check_encoder(entry: folder.Entry, encoder: encoders.TextEncoder) -> None:
  trained = entry.info.encoder_sha256
  if trained and trained != encoder.fingerprint:
    raise errors.BadInput(
      f"{entry.path.name} was trained with other weights of text encoder"
      f" {encoder.name!r} (sha256 {trained[:12]}..., here"
      f" {encoder.fingerprint[:12]}...); install that version of the encoder."
    )
