"""One program: however a run is spread, it is the run of one device."""

import itertools

import jax
import numpy as np
import pytest
from etils import epath

from configs import demo
from imagen_jax import build, build_step
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import rng, tree
from imagen_jax.train import checkpoints, sharding
from tests import tiny_cascade
from tests.train import tiny_run

MESHES = {
  "one": {"devices": 1},
  "data": {"data": 8},
  "fsdp": {"data": 1, "fsdp": 8},
  "tensor": {"data": 4, "tensor": 2},
  "spatial": {"data": 4, "spatial": 2},
  "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}
STEPS = 10
BATCH = 8


def config(index, mesh):
  """A stage wide enough that its kernels are cut."""
  cfg = demo.get_config(("base", "sr")[index])
  with cfg.unlocked():
    cfg.stage.update(tiny_cascade.stage_configs(8)[index])
    cfg.stage.residual = False
    if index == 0:  # one level, which compiles in half the time
      cfg.stage.resolution = 8
      cfg.stage.fields.update({"channel_mult": (1,), "image_size": 8})
    cfg.train.update({"steps": STEPS, "batch_size": BATCH})
    cfg.optimizer.warmup_steps = 0
    # Some gradients are zero but for rounding, as of a bias before a norm; with
    # an eps of 1e-8 Adam would make steps of that.
    cfg.optimizer.update({"learning_rate": 1e-3, "eps": 1e-3})
    cfg.mesh.update(mesh)
  return cfg.lock()


def batches(stage):
  for step in itertools.count():
    draw = np.random.default_rng(step)
    side, low = stage.resolution, stage.low_resolution
    batch = {
      "image": draw.uniform(-1, 1, (BATCH, side, side, 3)),
      "text_emb": draw.normal(size=(BATCH, 4, 8)),
    }
    if low:
      batch["x_lr"] = draw.uniform(-1, 1, (BATCH, low, low, 3))
    batch = {name: x.astype(np.float32) for name, x in batch.items()}
    yield batch | {"text_mask": draw.uniform(size=(BATCH, 4)) > 0.3}


def run(cfg, steps=STEPS):
  """(program, the state after some steps, losses)."""
  stage = build.stage(cfg.stage)
  program = build_step.make(cfg, stage, build.mesh(cfg))
  params = tiny_cascade.random_params(stage)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state.params)
  state = build_step.create(program, sharding.put(params, shardings))
  key = rng.key_for(jax.random.key(0), "train")
  losses = []
  for batch in itertools.islice(batches(stage), steps):
    placed = sharding.share(batch, program.mesh)
    state, metrics = program.step(state, placed, key)
    losses.append(float(metrics["loss"]))
  return program, state, losses


@pytest.fixture(scope="module")
def alone():
  return [run(config(i, MESHES["one"])) for i in range(2)]


@pytest.fixture(autouse=True)
def small_leaves_are_cut(monkeypatch):
  monkeypatch.setattr(sharding, "SMALL", 256)


def gathers(program):
  """Of a lowered step: how often a parameter is asked for whole."""
  stage = build.stage(config(0, MESHES["fsdp"]).stage)
  batch = sharding.share(next(batches(stage)), program.mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  text = program.step.lower(program.state, batch, key).as_text()
  return text.count("sharding_constraint")


def test_parameters_of_a_small_network_are_gathered_once(monkeypatch):
  cfg = config(0, MESHES["fsdp"])
  made = {}
  for kept in (0, 1 << 30):
    monkeypatch.setattr(build_step, "_KEPT", kept)
    made[kept] = build_step.make(cfg, build.stage(cfg.stage), build.mesh(cfg))
  leaves = tree.flatten(made[0].state.params).values()
  cut = [leaf for leaf in leaves if "fsdp" in leaf.sharding.spec]
  again = gathers(made[0]) - gathers(made[1 << 30])
  assert len(cut) > 5 and again >= len(cut)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("index", "name"),
  [(0, "data"), (0, "fsdp"), (0, "tensor"), (1, "spatial"), (1, "mixed")],
)
def test_a_mesh_trains_the_run_of_one_device(alone, index, name, monkeypatch):
  if name == "fsdp":  # what is gathered is gathered again on the way back
    monkeypatch.setattr(build_step, "_KEPT", 0)
  _, one, expected = alone[index]
  program, many, losses = run(config(index, MESHES[name]))
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  first, other = (tree.flatten(s.params) for s in (one, many))
  scale = max(float(np.abs(x).max()) for x in first.values())
  for leaf, value in first.items():
    np.testing.assert_allclose(
      other[leaf], value, rtol=1e-5, atol=1e-5 * scale, err_msg=leaf
    )
  # And the state stays where the plan has it.
  places = jax.tree.map(
    lambda leaf, x: leaf.sharding.is_equivalent_to(x.sharding, x.ndim),
    program.state,
    many,
  )
  assert all(jax.tree.leaves(places))
  if name in ("fsdp", "tensor", "mixed"):
    rows = sharding.plan(program.state.params, program.mesh)
    assert sum(any(row.spec) for row in rows) > 10


def test_a_state_goes_from_8_devices_to_4_to_2_to_1_and_back(tmp_path):
  _, state, _ = run(config(0, MESHES["mixed"]), steps=0)
  wanted = tiny_run.digest(state)
  meshes = (
    {"data": 1, "fsdp": 4, "devices": 4},
    {"data": 1, "tensor": 2, "devices": 2},
    MESHES["one"],
    MESHES["fsdp"],
  )
  for i, mesh in enumerate(meshes):
    saver = checkpoints.Checkpoints(epath.Path(tmp_path) / str(i))
    saver.save(1, state, wait=True)
    cfg = config(0, mesh)
    stage = build.stage(cfg.stage)
    program = build_step.make(cfg, stage, build.mesh(cfg))
    state = saver.restore(program.state)
    saver.close()
    assert tiny_run.digest(state) == wanted, mesh
    kernel = tree.flatten(state.params)["stem/kernel"]
    assert len(kernel.sharding.device_set) == program.mesh.size
  assert stage_lib.param_shapes(stage).keys() == state.params.keys()
