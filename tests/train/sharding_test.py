"""Rules: every parameter has one, every rule a parameter; and what they cut."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as Spec

from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.models import variants
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import optimizers, sharding
from imagen_jax.train import state as state_lib


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make(mesh_lib.MeshSizes(data=2, fsdp=2, tensor=2))


def shapes_of(name):
  low = None if name.startswith("base") else 64
  stage = stage_lib.Stage(
    name="x",
    module=variants.make(name),
    resolution=256 if low else 64,
    low_resolution=low,
    text_width=4096,
  )
  return stage_lib.param_shapes(stage)


@pytest.fixture(scope="module")
def base_2b():
  return shapes_of("base_2b")


@pytest.mark.parametrize(
  ("shape", "tactic", "spec"),
  [
    ((512, 256), "replicate", Spec()),
    ((512, 256), "fsdp", Spec("fsdp")),
    ((256, 512), "fsdp", Spec(None, "fsdp")),
    ((512, 512), "fsdp", Spec(None, "fsdp")),
    ((3, 3, 256, 512), "column", Spec(None, None, "fsdp", "tensor")),
    ((3, 3, 512, 256), "row", Spec(None, None, "tensor", "fsdp")),
    ((512, 256), "column", Spec("fsdp", "tensor")),
    ((511, 256), "row", Spec(None, "fsdp")),  # tensor does not divide 511
    ((511, 511), "fsdp", Spec()),
    ((255, 256), "fsdp", Spec()),  # small
    ((1 << 16,), "fsdp", Spec("fsdp")),
    ((), "fsdp", Spec()),
  ],
)
def test_a_tactic_cuts_what_it_can(mesh, shape, tactic, spec):
  assert sharding.spec_of(shape, tactic, mesh) == spec


@pytest.mark.parametrize("name", ["base_2b", "sr256_600m", "sr1024_400m"])
def test_the_rules_cover_every_parameter_of_the_paper(mesh, name):
  shapes = shapes_of(name)
  rows = sharding.plan(shapes, mesh)
  assert {row.name for row in rows} == tree.flatten(shapes).keys()
  assert {row.rule for row in rows} == {
    pattern for pattern, _ in sharding.RULES
  }
  # All but a thousandth of the numbers are cut.
  whole = sum(math.prod(row.shape) for row in rows if not any(row.spec))
  assert whole < 2e-3 * tree.count(shapes)
  largest = sharding.largest_whole(rows)
  assert largest.local_bytes < 1 << 20
  assert largest.name in sharding.table(rows)
  # Blocks are cut in four, what joins them in two.
  local = sum(row.local_bytes for row in rows)
  assert local < 0.33 * tree.size_bytes(shapes)


def test_blocks_are_cut_in_pairs(mesh, base_2b):
  """What a column leaves cut over `tensor` is what a row takes cut."""
  specs = {row.name: row.spec for row in sharding.plan(base_2b, mesh)}
  for name, spec in specs.items():
    if "block_" in name and name.endswith("conv_0/kernel"):
      second = specs[name.replace("conv_0", "conv_1")]
      assert (spec[-1], second[-2]) == ("tensor", "tensor"), name
    if name.endswith("/query/kernel"):
      out = specs[name.replace("query", "out")]
      assert (spec[-1], out[-2]) == ("tensor", "tensor"), name


def test_rules_that_leave_or_miss_something_are_refused(mesh, base_2b):
  with pytest.raises(errors.BadInput, match=r"no rule .* fits .*/bias'"):
    sharding.plan(base_2b, mesh, [(".*kernel", "fsdp")])
  with pytest.raises(errors.BadInput, match="'nothing' match no parameter"):
    sharding.plan(
      base_2b, mesh, [*sharding.RULES[:-1], (".*", "fsdp"), ("nothing", "fsdp")]
    )
  with pytest.raises(errors.BadInput, match="'rows' is not known; use one of"):
    sharding.plan(base_2b, mesh, [(".*", "rows")])


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_a_state_lies_as_its_parameters(mesh, base_2b, name):
  rule = optimizers.make(name, lambda _: 1e-4)
  state = state_lib.abstract(base_2b, rule)
  placed = sharding.state_shardings(state, base_2b, mesh)
  assert jax.tree.structure(placed) == jax.tree.structure(state)
  params = {row.name: row.spec for row in sharding.plan(base_2b, mesh)}
  for group in (placed.params, placed.ema_params):
    found = {n: s.spec for n, s in tree.flatten(group).items()}
    assert found == params
  shapes, found = tree.flatten(state), tree.flatten(placed)
  assert shapes.keys() == found.keys()
  for leaf_name, leaf in shapes.items():
    local = math.prod(found[leaf_name].shard_shape(leaf.shape))
    if math.prod(leaf.shape) > 1 << 20 and "row" not in leaf_name:
      assert local <= math.prod(leaf.shape) / 2, leaf_name
  assert not any(found["guard/losses"].spec)
  if name == "adam":
    moments = placed.opt_state[1][0]
    assert jax.tree.all(
      jax.tree.map(lambda a, b: a == b, moments.mu, placed.params)
    )


def test_a_batch_is_cut_over_data_and_fsdp_and_rows_of_pixels():
  mesh = mesh_lib.make(mesh_lib.MeshSizes(data=2, fsdp=2, spatial=2))
  image = jnp.zeros((8, 16, 16, 3))
  placed = jax.device_put(image, sharding.batch_sharding(mesh, 4))
  assert {s.data.shape for s in placed.addressable_shards} == {(2, 8, 16, 3)}
  mask = jax.device_put(np.zeros((8, 5)), sharding.batch_sharding(mesh, 2))
  assert {s.data.shape for s in mask.addressable_shards} == {(2, 5)}


def test_one_device_leaves_all_whole(base_2b):
  mesh = mesh_lib.make(mesh_lib.MeshSizes(), jax.devices()[:1])
  rows = sharding.plan(base_2b, mesh)
  assert not any(any(row.spec) for row in rows)
  assert sum(row.local_bytes for row in rows) == tree.size_bytes(base_2b)
  assert dataclasses.asdict(mesh_lib.MeshSizes())["data"] == -1
