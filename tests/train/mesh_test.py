"""Meshes: which sizes fit which devices, and what is said where none does."""

import math

import jax
import pytest

from imagen_jax import build
from imagen_jax.core import errors
from imagen_jax.train import mesh as mesh_lib

Sizes = mesh_lib.MeshSizes


@pytest.mark.parametrize(
  ("given", "devices", "shape"),
  [
    (Sizes(), 8, (8, 1, 1, 1)),
    (Sizes(data=1, fsdp=-1), 8, (1, 8, 1, 1)),
    (Sizes(fsdp=2, tensor=2), 8, (2, 2, 1, 2)),
    (Sizes(data=1, fsdp=4, spatial=-1), 8, (1, 4, 2, 1)),
    (Sizes(data=4, fsdp=64, slices=2), 256, (4, 64, 1, 1)),
    (Sizes(), 1, (1, 1, 1, 1)),
  ],
)
def test_one_size_may_be_what_is_left(given, devices, shape):
  filled = mesh_lib.fill(given, devices)
  assert filled.shape == shape
  assert math.prod(filled.shape) == devices
  assert mesh_lib.fill(filled, devices) == filled


@pytest.mark.parametrize(
  ("given", "devices", "said"),
  [
    (Sizes(fsdp=3), 8, "needs a multiple of 3 devices, and there are 8"),
    (Sizes(data=2, fsdp=2), 8, "needs 4 devices, and there are 8"),
    (Sizes(data=-1, fsdp=-1), 8, "one of them may be -1"),
    (Sizes(data=0), 8, "sizes are 1 or more"),
    (Sizes(data=-1, tensor=-2), 8, "sizes are 1 or more"),
    (Sizes(slices=3), 8, r"mesh\.data 8 is not divisible by mesh\.slices 3"),
    (Sizes(slices=0), 8, "has no meaning"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(given, devices, said):
  with pytest.raises(errors.BadInput, match=said):
    mesh_lib.fill(given, devices)


def test_every_device_is_in_the_mesh_once():
  mesh = mesh_lib.make(Sizes(data=2, fsdp=2, tensor=2))
  assert mesh.axis_names == mesh_lib.AXES
  assert sorted(d.id for d in mesh.devices.flat) == list(range(8))
  assert mesh_lib.batch_parts(mesh) == 4
  assert mesh_lib.describe(mesh) == "data 2, fsdp 2, tensor 2: 8 x cpu"
  alone = mesh_lib.make(Sizes(), jax.devices()[:1])
  assert mesh_lib.describe(alone) == "one device: 1 x cpu"


def test_more_devices_than_there_are_is_refused():
  config = {"mesh": {"devices": 99, "rules": ()}}
  with pytest.raises(errors.BadInput, match=r"mesh\.devices is 99, .* has 8"):
    build.mesh(config)
  config["mesh"]["devices"] = 2
  assert build.mesh(config).size == 2
