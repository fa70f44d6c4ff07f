"""A few images of one subject, with images of its class beside them.

DreamBooth (Ruiz et al. 2022): every image of the subject has one caption with a
rare word in it, "a photo of sks dog", and every second example is of its class,
"a photo of a dog", so that other dogs do not turn into this one:

  loss = mean over the batch of weight * loss of the example,
  weight [b] float32: 1 of the subject, `prior_weight` of its class.

Both are plain folders of images; captions beside them are not read. Those of
the class are best drawn by the model itself before it is trained:

  imagen sample --weights=runs/demo --num_samples=200 --out=class \
    "a photo of a dog"

The stream is that of `image_pipeline`, over two sets in equal shares.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from imagen_jax.core import contact_sheet, errors, files
from imagen_jax.data import batch as batch_lib
from imagen_jax.data import (
  examples,
  image_folder,
  image_pipeline,
  image_view,
  rejects,
)


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """The images of a folder, read when asked for, all with one caption."""

  kind: str  # keys are KIND/NAME
  folder: pathlib.Path
  names: tuple[str, ...]
  caption: str
  weight: float  # in the loss

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the files, their names, the caption and the weight."""
    contents = files.sha256_files(self.folder / name for name in self.names)
    parts = (self.kind, self.names, contents, self.caption, self.weight)
    return hashlib.sha256(repr(parts).encode()).hexdigest()

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> examples.Example:
    name = self.names[index]
    try:
      image = (self.folder / name).read_bytes()
    except OSError as error:
      raise errors.DataError(f"cannot read {name}: {error}") from error
    return examples.Example(f"{self.kind}/{name}", self.caption, image)


def open_folder(
  kind: str, folder: files.PathLike, caption: str, weight: float
) -> FolderSource:
  """The images in and below a folder, at least one."""
  names = tuple(n for n in image_folder.find(folder) if n != contact_sheet.NAME)
  if not names:
    raise errors.BadInput(
      f"{str(folder)!r} holds no images; give a folder with JPEG, PNG or WebP"
      " files."
    )
  return FolderSource(kind, pathlib.Path(folder), names, caption, weight)


def make(
  folder: files.PathLike,
  view: image_view.View,
  *,
  prompt: str,
  class_folder: files.PathLike | None,
  class_prompt: str,
  prior_weight: float = 1.0,
  batch_size: int,
  seed: int = 0,
  host_index: int = 0,
  host_count: int = 1,
  threads: int = 2,
  report: rejects.Report | None = None,
) -> image_pipeline.ImagePipeline:
  """Batches with `weight`; without a `class_folder`, of the subject alone."""
  if not prior_weight >= 0:
    raise errors.BadInput(f"prior_weight {prior_weight} must be 0 or more.")
  if class_folder is not None and prompt == class_prompt:
    raise errors.BadInput(
      f"prompt and class_prompt are both {prompt!r}; give the subject a rare"
      " word of its own, as in 'a photo of sks dog'."
    )
  sources = [open_folder("subject", folder, prompt, 1.0)]
  if class_folder is not None:
    sources.append(
      open_folder("class", class_folder, class_prompt, prior_weight)
    )
  weights = {source.kind: source.weight for source in sources}
  return image_pipeline.make(
    sources,
    view,
    batch_size=batch_size,
    weights=[1] * len(sources),
    seed=seed,
    host_index=host_index,
    host_count=host_count,
    threads=threads,
    # All of so few images should be fine.
    budget=rejects.Budget(count=0, fraction=0.0),
    report=report,
    transform=functools.partial(_weighted, weights),
  )


def _weighted(
  weights: Mapping[str, float], made: batch_lib.HostBatch
) -> batch_lib.HostBatch:
  kinds = [key.partition("/")[0] for key in made["key"]]
  weight = np.array([weights[kind] for kind in kinds], np.float32)
  return made | {"weight": weight}
