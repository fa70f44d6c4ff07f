"""From the schemas of older checkpoints to the one that is written now.

A checkpoint is a flat dict of leaves by slash name. `MIGRATIONS[n]` turns those
of schema n into those of n + 1: it renames, drops or adds leaves. It runs on
shapes first, so that a wrong one is an error before anything is read.

  0  no manifest; its config and fingerprints are those of run.json
  1  a manifest; the state has a guard against spikes
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax.numpy as jnp

from imagen_jax.core import errors, tree

SCHEMA = 1

Leaves: TypeAlias = dict[str, tree.Leaf]
Migration: TypeAlias = Callable[[Leaves], Leaves]


def _from_0(leaves: Leaves) -> Leaves:
  """A guard that has seen nothing; its window is then 128 updates."""
  windows = {n: jnp.zeros(128) for n in ("losses", "grad_norms")}
  counts = {n: jnp.int32(0) for n in ("seen", "skipped", "skipped_in_a_row")}
  guard = windows | counts
  return leaves | {f"guard/{name}": leaf for name, leaf in guard.items()}


MIGRATIONS: Mapping[int, Migration] = {0: _from_0}


def migrate(leaves: Leaves, schema: int) -> Leaves:
  """`leaves` of `schema` as those of SCHEMA."""
  if not 0 <= schema <= SCHEMA:
    raise errors.BadInput(
      f"the checkpoint is of schema {schema}, and this version of imagen_jax"
      f" reads 0 to {SCHEMA}; use the version that wrote it."
    )
  for version in range(schema, SCHEMA):
    leaves = MIGRATIONS[version](leaves)
  return leaves
