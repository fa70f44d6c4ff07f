"""A checkpoint of before there were manifests is still read."""

import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from imagen_jax.core import errors, tree
from imagen_jax.train import (
  checkpoints,
  manifest,
  migrations,
  optimizers,
  record,
  step_folders,
)
from imagen_jax.train import state as state_lib
from tests import house_rules

FIXTURE = house_rules.ROOT / "tests/golden/checkpoint_v0.tar.gz"


@pytest.fixture
def old(tmp_path):
  """run/ of schema 0, and leaves.npz: what its state was."""
  with tarfile.open(FIXTURE) as tar:
    tar.extractall(tmp_path, filter="data")
  return epath.Path(tmp_path)


def abstract(optimizer="adam"):
  params = {"head": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
  rule = optimizers.make(optimizer, lambda _: 1e-2)
  return jax.eval_shape(lambda: state_lib.create(params, rule))


def test_the_state_of_schema_0_is_restored_to_the_bit_and_sealed(old):
  saver = checkpoints.Checkpoints(old / "run")
  state = saver.restore(abstract())
  leaves, expected = tree.flatten(state), np.load(old / "leaves.npz")
  for name in expected.files:
    np.testing.assert_array_equal(leaves[name], expected[name])
    assert leaves[name].dtype == expected[name].dtype
  assert expected["step"] == 4 and expected["opt_state/1/0/mu/head/bias"].any()
  # What schema 0 had not: a guard that has seen nothing.
  added = leaves.keys() - set(expected.files)
  assert added == {n for n in leaves if n.startswith("guard/")} != set()
  assert not any(leaves[name].any() for name in added)
  # Sealed as what it is, so that it is migrated the next time too.
  folder = old / "run" / "checkpoints"
  assert manifest.faults_of(folder, 4) == []
  assert manifest.read(folder, 4).about["schema"] == 0
  again = saver.restore(abstract())
  assert int(again.step) == 4
  saver.save(5, state, wait=True)
  saver.close()
  assert manifest.read(folder, 5).about["schema"] == migrations.SCHEMA


def test_its_run_is_that_of_run_json(old):
  run = step_folders.recorded(old / "run")
  assert run["config"]["seed"] == 3
  assert run["hashes"] == {"data": "d0", "encoder": "e0"}
  record.check_resume(run, run, ())


def test_schema_0_is_still_strict(old):
  saver = checkpoints.Checkpoints(old / "run")
  with pytest.raises(errors.BadInput, match=r"opt_state/1/0/mu/head/bias: \(3"):
    saver.restore(abstract("adafactor"))
  saver.close()


def test_each_migration_runs_once_and_in_order(monkeypatch):
  def rename(old, new):
    def migration(leaves):
      return {new if n == old else n: leaf for n, leaf in leaves.items()}

    return migration

  table = {0: rename("a", "b"), 1: rename("b", "c")}
  monkeypatch.setattr(migrations, "MIGRATIONS", table)
  monkeypatch.setattr(migrations, "SCHEMA", 2)
  leaf = np.zeros(2)
  assert migrations.migrate({"a": leaf}, 0).keys() == {"c"}
  assert migrations.migrate({"b": leaf}, 1).keys() == {"c"}
  assert migrations.migrate({"c": leaf}, 2).keys() == {"c"}
  with pytest.raises(errors.BadInput, match="of schema 3, and .* reads 0 to 2"):
    migrations.migrate({"c": leaf}, 3)


def test_there_is_a_migration_from_every_older_schema():
  assert set(migrations.MIGRATIONS) == set(range(migrations.SCHEMA))
