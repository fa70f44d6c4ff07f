"""What a pipeline asks of a stored image set: random access by index.

There is no iterator to save and restore. A batch is addressed by (seed, step),
its examples by index, so the position in the data is the training step itself,
and a run that starts at step n reads what an unbroken run would have read.
"""

from typing import Protocol

from imagen_jax.data import records


class Source(Protocol):
  """A fixed, ordered collection of records."""

  @property
  def fingerprint(self) -> str:
    """Hex SHA-256 of the manifest: changes when any record changes."""
    ...

  def __len__(self) -> int:
    """How many records there are."""
    ...

  def __getitem__(self, index: int) -> records.Record:
    """Record `index`, 0 <= index < len."""
    ...
