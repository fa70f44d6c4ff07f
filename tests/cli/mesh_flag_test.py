"""What --mesh makes of its text, and what it refuses."""

import pytest

from imagen_jax.cli import mesh_flag
from imagen_jax.core import errors


@pytest.mark.parametrize(
  ("text", "sizes"),
  [
    ("data=4,spatial=2", (4, 1, 2, 1)),
    ("spatial=2", (4, 1, 2, 1)),  # data is what is left
    ("data=1, spatial=4", (1, 1, 4, 1)),  # of four devices
    ("fsdp=-1,data=2", (2, 4, 1, 1)),
  ],
)
def test_sizes(text: str, sizes: tuple):
  mesh = mesh_flag.parse(text)
  assert tuple(mesh.shape.values()) == sizes


def test_without_it_there_is_no_mesh():
  assert mesh_flag.parse(None) is None


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "'' is no axis. Use data, fsdp"),
    ("spacial=2", "'spacial' is no axis; did you mean 'spatial'"),
    ("data", "data needs one whole number"),
    ("data=2,data=4", "data needs one whole number"),
    ("data=16", "of 16 devices, and there are 8"),
    ("spatial=3", "multiple of 3 devices, and there are 8"),
    ("data=0", "has no meaning"),
  ],
)
def test_what_is_refused(text: str, message: str):
  with pytest.raises(errors.BadInput, match=message) as caught:
    mesh_flag.parse(text)
  assert "\n" not in str(caught.value)
