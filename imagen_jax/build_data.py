"""The batches of a run from its config: `config.data`."""

import jax
import ml_collections

from imagen_jax import build
from imagen_jax.core import errors
from imagen_jax.data import (
  examples,
  image_pipeline,
  image_view,
  pipeline,
  rejects,
  subject,
)


def source(
  config: ml_collections.ConfigDict, report: rejects.Report | None = None
) -> pipeline.Pipeline | image_pipeline.ImagePipeline:
  """The batches of `config.data` at the stage's resolutions.

  `report` is told of each example that could not be used.
  """
  if config.data.name == "images":
    return _images(config, report)
  if config.data.name == "subject":
    return _subject(config, report)
  if config.data.name != "emoji":
    raise errors.BadInput(
      f"data.name {config.data.name!r} is not known; use emoji, images or"
      " subject."
    )
  return pipeline.make(
    batch_size=config.train.batch_size,
    seed=config.seed,
    resolution=config.stage.resolution,
    low_resolution=config.stage.low_resolution or None,
    crop=config.data.crop or None,
  )


def _images(
  config: ml_collections.ConfigDict, report: rejects.Report | None
) -> image_pipeline.ImagePipeline:
  data = config.data
  if not data.paths:
    raise errors.BadInput(
      "data.paths is empty; give folders that `imagen data build` made."
    )
  return image_pipeline.make(
    [examples.open_set(path) for path in data.paths],
    _view(config),
    batch_size=config.train.batch_size,
    weights=tuple(data.weights) or None,
    seed=config.seed,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
    threads=data.threads,
    budget=rejects.Budget(data.max_rejects, data.max_reject_fraction),
    report=report,
  )


def _subject(
  config: ml_collections.ConfigDict, report: rejects.Report | None
) -> image_pipeline.ImagePipeline:
  if "subject" not in config.data:
    raise errors.BadInput(
      "data.name 'subject' needs the fields data.subject; use"
      " configs/dreambooth.py, which has them."
    )
  fields = build.plain(config.data.subject)
  if not fields["folder"]:
    raise errors.BadInput(
      "data.subject.folder is empty; give a folder with images of the subject."
    )
  fields["class_folder"] = fields["class_folder"] or None
  return subject.make(
    fields.pop("folder"),
    _view(config),
    batch_size=config.train.batch_size,
    seed=config.seed,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
    threads=config.data.threads,
    report=report,
    **fields,
  )


def _view(config: ml_collections.ConfigDict) -> image_view.View:
  data = config.data
  return image_view.View(
    config.stage.resolution,
    low_resolution=config.stage.low_resolution or None,
    crop=data.crop or None,
    place=data.place,
    flip_probability=data.flip_probability,
    flip_exempt=tuple(data.flip_exempt),
    upscale=data.upscale,
  )
