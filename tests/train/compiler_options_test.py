"""Options of the compiler: named once, each with a reason."""

import pathlib
import types

import jax
import numpy as np
import pytest

from imagen_jax.train import compiler_options
from imagen_jax.train import mesh as mesh_lib


def mesh_of(platform, count=4):
  """As much of a mesh as is looked at."""
  device = types.SimpleNamespace(platform=platform)
  return types.SimpleNamespace(size=count, devices=np.array([device] * count))


of_mesh = getattr(
  compiler_options.of_mesh, "__wrapped__", compiler_options.of_mesh
)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_each_is_named_once_with_a_reason(platform):
  rows = compiler_options.TABLE[platform]
  names = [row.name for row in rows]
  assert len(set(names)) == len(names) > 0
  assert all(name.startswith("xla_") for name in names)
  assert all(len(row.reason.split()) > 2 for row in rows)
  assert of_mesh(mesh_of(platform)) == {r.name: r.value for r in rows}


def test_one_device_and_a_cpu_have_none():
  assert of_mesh(mesh_of("tpu", 1)) is None
  mesh = mesh_lib.make(mesh_lib.MeshSizes(), jax.devices())
  assert compiler_options.of_mesh(mesh) is None


def test_cuda_is_a_gpu():
  assert of_mesh(mesh_of("cuda")) == of_mesh(mesh_of("gpu"))


def test_the_page_has_them_all():

  page = (pathlib.Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
  for rows in compiler_options.TABLE.values():
    for name, value, reason in rows:
      assert f"| `{name}` | {value} | {reason} |" in page
