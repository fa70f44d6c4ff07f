"""What is in seqio tasks and mixtures, as streams.

  found = open_name("my_mixture:train", module="my_package.tasks")
  for task in found.tasks:
    task.fields                           {"image": ..., "captions/text": ...}
    task.read(["image", "captions/text"]) yields (image, texts) of each example

A name is TASK_OR_MIXTURE[:SPLIT], by default of the split "train". Of a mixture
comes each example of each task once, task after task by name: rates say how
often to train on a task, not what is in it.

Nothing is shuffled, and what preprocessors draw they draw from one seed. seqio
is not imported until a function is called.
"""

import dataclasses
import difflib
import functools
import importlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.core import errors


def load() -> Any:
  """The package seqio."""
  try:
    import seqio
  except Exception as error:  # protobuf refuses other versions in its own way
    raise errors.BadInput(
      f"seqio cannot be imported ({error}); run: pip install seqio"
      " tensorflow-cpu"
    ) from error
  return seqio


class Field(NamedTuple):
  """Where a feature is in an example, and what it is."""

  keys: tuple[str, ...]
  spec: Any  # a tf.TensorSpec, or its like


@dataclasses.dataclass(frozen=True)
class Task:
  """The examples of one split of a task, to be read as often as one likes."""

  name: str
  dataset: Any  # a tf.data.Dataset
  fields: Mapping[str, Field]  # by path, as in captions/text

  def read(self, names: Sequence[str]) -> Iterator[tuple]:
    """These fields of each example: bytes, numbers, or arrays of them."""
    import tensorflow as tf

    def chosen(example: Mapping) -> tuple:
      return tuple(
        functools.reduce(operator.getitem, self.fields[name].keys, example)
        for name in names
      )

    try:
      yield from self.dataset.map(chosen).as_numpy_iterator()
    except tf.errors.OpError as error:
      raise errors.DataError(
        f"the seqio task {self.name} cannot be read: {_first(error)}"
      ) from error


class Found(NamedTuple):
  """A task or a mixture."""

  name: str
  split: str
  tasks: list[Task]


def open_name(name: str, *, module: str | None = None) -> Found:
  """The tasks of a name that have its split.

  `module` is imported first, to register them.
  """
  seqio = load()
  if module is not None:
    try:
      importlib.import_module(module)
    except ImportError as error:
      raise errors.BadInput(
        f"cannot import {module} to register its tasks ({error})."
      ) from error
  provider, split = _provider(seqio, name)
  if split not in provider.splits:
    raise errors.BadInput(
      f"seqio:{provider.name} has no split {split!r}; it has:"
      f" {', '.join(sorted(provider.splits))}."
    )
  tasks = [
    _open(task, split)
    for task in seqio.get_subtasks(provider)
    if split in task.splits
  ]
  return Found(provider.name, split, tasks)


def _provider(seqio: Any, name: str) -> tuple[Any, str]:
  """The task or mixture, and the split; names may hold colons too."""
  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  head, _, tail = name.rpartition(":")
  for known, split in ((name, "train"), (head, tail)):
    if known in names:
      return seqio.get_mixture_or_task(known), split
  close = difflib.get_close_matches(head or name, names, n=3)
  raise errors.BadInput(
    f"seqio knows no task or mixture {name!r}; "
    + (f"near: {', '.join(close)}." if close else f"it knows {len(names)}.")
    + " Name the module that registers it."
  )


def _open(task: Any, split: str) -> Task:
  import tensorflow as tf

  try:
    dataset = task.get_dataset(
      split=split,
      shuffle=False,
      use_cached=task.requires_caching,
      seed=0,
      # In memory it would not be a stream.
      try_in_mem_cache=False,
    )
  # ValueError is seqio's, where an example is not what a task promises; TFDS
  # asserts that its data is there.
  except (ValueError, AssertionError, OSError, tf.errors.OpError) as error:
    raise errors.BadInput(
      f"cannot open split {split!r} of the seqio task {task.name}:"
      f" {_first(error)}"
    ) from error
  fields = {"/".join(f.keys): f for f in _leaves(dataset.element_spec)}
  return Task(task.name, dataset, fields)


def _leaves(spec: Any, above: tuple[str, ...] = ()) -> Iterator[Field]:
  if isinstance(spec, Mapping):
    for key, inner in spec.items():
      yield from _leaves(inner, (*above, key))
  elif above:  # else its examples are lines of text
    yield Field(above, spec)


def _first(error: Exception) -> str:
  return str(error).partition("\n")[0][:300]
