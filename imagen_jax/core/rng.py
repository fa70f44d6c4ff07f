"""Named keys: the root key, folded with a stream's name, then with integers.

Adding a stream never moves another, and a run that resumes at step n draws what
it would have drawn. No key is split in a loop.
"""

import zlib

import jax
from jaxtyping import Array, Int

from imagen_jax.core.arrays import Key, Keys


def key_for(key: Key, name: str, *indices: int | Int[Array, ""]) -> Key:
  """The key of stream `name` at `indices`, for example a step."""
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  for index in indices:
    key = jax.random.fold_in(key, index)
  return key


def keys_for(key: Key, name: str, indices: Int[Array, "b"]) -> Keys:
  """One key for each index: example i's draws do not depend on its batch."""
  stream = key_for(key, name)
  return jax.vmap(lambda index: jax.random.fold_in(stream, index))(indices)


def each_key_for(keys: Keys, name: str, *indices: int | Int[Array, ""]) -> Keys:
  """`key_for` of every key in `keys`."""
  return jax.vmap(lambda key: key_for(key, name, *indices))(keys)
