"""Versions, devices, room: each fires, and each holds its peace."""

import importlib.util
import pathlib
import re

import pytest
from etils import epath

from imagen_jax.core import errors, tree
from imagen_jax.health import machine
from tests.train import states

GOOD = {name: oldest for name, (oldest, _) in machine.SUPPORTED.items()}


def test_this_machine_can_run_it():
  found = machine.installed()
  assert found["jax"] and found["python"].startswith("3.")
  assert machine.versions(found).level == "ok"
  assert machine.versions(GOOD).level == "ok"


@pytest.mark.parametrize(
  ("name", "has", "said"),
  [
    ("python", "3.9.7", "python 3.9.7 is older than 3.11"),
    ("jax", "0.13.0.dev2", "jax 0.13.0.dev2 is not older than 0.13"),
    ("optax", "0.2.5", "optax 0.2.5 is older than 0.2.6"),
    ("flax", None, "flax is not installed"),
  ],
)
def test_a_version_out_of_range_is_named(name, has, said):
  found = machine.versions(GOOD | {name: has})
  assert (found.level, found.said) == ("problem", said)
  assert found.error is errors.BadInput and "pip install" in found.remedy


def test_the_ranges_are_those_of_setup():
  text = (pathlib.Path(__file__).parents[2] / "setup.py").read_text()
  asked = dict(re.findall(r'^  "([\w-]+)(?:>=)([\w.<,]+)",', text, re.M))
  for name, (oldest, too_new) in machine.SUPPORTED.items():
    if name != "python":
      expected = oldest + (f",<{too_new}" if too_new else "")
      assert asked[name] == expected, name
  assert f'python_requires=">={machine.SUPPORTED["python"][0]}"' in text


def test_a_gpu_that_jax_does_not_see_is_told():
  found = machine.devices(["cpu"], ["/dev/nvidia0"])
  assert found.level == "warning"
  assert "NVIDIA" in found.said and "imagen_jax[cuda]" in found.remedy
  assert machine.devices(["cpu"] * 8, []).said.startswith("8 x cpu")
  assert machine.devices(["gpu"], ["/dev/nvidia0"]).level == "ok"


def test_the_extras_of_the_remedies_exist():
  spec = importlib.util.find_spec("imagen_jax")
  text = (pathlib.Path(spec.origin).parents[1] / "setup.py").read_text()
  for _, extra in machine._ACCELERATORS.values():
    assert f'"{extra}": [' in text


@pytest.mark.parametrize(
  ("checkpoints", "level"), [(1.5, "problem"), (2.5, "warning"), (4.5, "ok")]
)
def test_disk_for_the_checkpoints_that_are_kept(
  tmp_path, monkeypatch, checkpoints, level
):
  size = tree.size_bytes(states.abstract())

  class Usage:
    free = int(checkpoints * size)

  monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage)
  workdir = epath.Path(tmp_path) / "not" / "yet"
  found = machine.disk(workdir, states.abstract(), kept=3)
  assert found.level == level
  assert not workdir.exists()


def test_a_bucket_is_not_judged():
  found = machine.disk(epath.Path("gs://a/b"), states.abstract(), kept=3)
  assert found.level == "skipped"


def test_memory_is_that_of_host_and_device():
  abstract = states.abstract()
  state = tree.size_bytes(abstract)
  step = state + tree.size_bytes(abstract.params)

  def level(host, device):
    return machine.memory(abstract, host=host, device=device).level

  assert level(10 * step, None) == "ok"
  assert level(step, None) == "problem"  # a save has its copy there, too
  assert level(2 * step, step - 1) == "problem"
  assert level(2 * state, 10 * step) == "ok"
  assert level(state - 1, 10 * step) == "problem"
  assert level(int(1.2 * (state + step)), None) == "warning"
  assert level(None, None) == "skipped"
