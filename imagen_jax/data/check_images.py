"""All that is wrong with a set of captioned images, in words.

Shards by size and SHA-256, files that the manifest does not list, and every
record by its digest, so that damage is told by the examples it has hit.
"""

import os
from collections.abc import Callable, Iterator

from imagen_jax.core import errors, files
from imagen_jax.data import array_record_source, decode, examples


def complaints(
  folder: files.PathLike,
  source: examples.ExampleSource,
  *,
  decoded: bool = False,
  progress: Callable[[int], None] = lambda done: None,
) -> Iterator[str]:
  """A line for each fault; none if every byte is as it was written.

  With `decoded` each image is decoded, and its size compared, too.
  """
  shards = source.manifest.shards
  for shard in shards:
    if wrong := array_record_source.damage(folder, shard):
      yield wrong
  listed = {shard.file for shard in shards}
  for name in sorted(os.listdir(folder)):
    if name.endswith(".array_record") and name not in listed:
      yield f"shard {name!r} is not in the manifest"
  told = source.manifest.content.get("records")
  if told != len(source):
    yield f"the manifest has {told} records, its shards {len(source)}"
  for index in range(len(source)):
    try:
      example = source[index]
      if decoded and (wrong := _undecodable(example)):
        yield f"record {index} ({example.key}): {wrong}"
    except errors.DataError as error:
      yield str(error)
    progress(index + 1)


def _undecodable(example: examples.Example) -> str | None:
  try:
    found = decode.size(example.image)
  except decode.Skip as skip:
    return str(skip)
  expected = (example.extra.get("width"), example.extra.get("height"))
  if found != expected:
    return f"the image is {found}, its header says {expected}"
  return None
