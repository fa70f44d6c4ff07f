"""Sampling over a mesh: whatever is cut, the images are those of one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from imagen_jax import build
from imagen_jax.cascade import pipeline, runner
from imagen_jax.core import errors, tree
from imagen_jax.diffusion import sampling
from imagen_jax.train import layout as layout_lib
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import sharding
from tests import tiny_cascade
from tests.train import tiny_run

# In [-1, 1]: the same sums in another order.
CLOSE = {"atol": 1e-5, "rtol": 0}
N = 8
MESHES = {
  "all": {"data": 1, "fsdp": 2, "spatial": 2, "tensor": 2},
  "data": {"data": 8},
  "spatial": {"data": 1, "spatial": 8},
  "data and spatial": {"data": 2, "spatial": 4},
  "fsdp": {"data": 2, "fsdp": 4},
  "tensor": {"data": 4, "tensor": 2},
}


@pytest.fixture(autouse=True)
def small_leaves_are_cut(monkeypatch):
  monkeypatch.setattr(sharding, "SMALL", 64)


def layout(name):
  return layout_lib.Layout(mesh_lib.make(mesh_lib.MeshSizes(**MESHES[name])))


def text(n=N):
  draw = np.random.default_rng(1)
  mask = np.arange(6)[None] < draw.integers(2, 6, (n, 1))
  return draw.normal(size=(n, 6, 8)).astype(np.float32), mask


def keys(n=N):
  return pipeline.image_keys(jax.random.key(3), jnp.arange(n))


def stage():
  """It has all there is: x_lr, convolutions, both kinds of attention."""
  config = tiny_cascade.stage_configs(8)[1]
  outer, inner = config["fields"]["blocks"]
  blocks = [outer, inner | {"self_attention": True}]
  return build.stage(config | {"fields": config["fields"] | {"blocks": blocks}})


def drawn(params, spread=None):
  emb, mask = text()
  x_lr = np.random.default_rng(2).uniform(-1, 1, (N, 16, 16, 3))
  settings = sampling.SamplerSettings(
    steps=2, sampler="ddim", guidance_weight=2.0, aug_level=0.1
  )
  return runner.draw(
    stage(),
    settings,
    params,
    {"text_emb": jnp.asarray(emb), "text_mask": jnp.asarray(mask)},
    keys(),
    x_lr.astype(np.float32),
    layout=spread,
  )


@pytest.fixture(scope="module")
def alone():
  return drawn(tiny_cascade.random_params(stage()))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["all", *(pytest.param(n, marks=pytest.mark.nightly)
                    for n in MESHES if n != "all")]
)  # fmt: skip
def test_a_mesh_makes_the_images_of_one_device(alone, name):
  spread = layout(name)
  placed = spread.put_params(tiny_cascade.random_params(stage()))
  np.testing.assert_allclose(drawn(placed, spread), alone, **CLOSE)
  assert alone.std() > 0.1
  cut = [leaf for leaf in jax.tree.leaves(placed) if any(leaf.sharding.spec)]
  assert (len(cut) > 10) == (name in ("all", "fsdp", "tensor"))


def test_images_lie_cut_and_chunks_are_filled_up():
  cascade, _ = tiny_cascade.in_memory()
  cascade = dataclasses.replace(
    cascade,
    stages=(tiny_run.STAGE,),
    settings=(sampling.SamplerSettings(steps=2, sampler="ddim"),),
  )
  params = tiny_cascade.random_params(tiny_run.STAGE)
  emb, mask = text(5)

  def images(cascade, params):
    parts = pipeline.chunks(
      cascade, {"base": params}, emb, mask, keys(5), batch_size=2
    )
    return [part.images for part in parts]

  one = images(cascade, params)
  spread = layout("data and spatial")
  many = images(
    dataclasses.replace(cascade, layout=spread), spread.put_params(params)
  )
  assert [len(x) for x in one] == [len(x) for x in many] == [2, 2, 1]
  np.testing.assert_allclose(np.concatenate(many), np.concatenate(one), **CLOSE)
  whole = dataclasses.replace(cascade, layout=layout("data"))
  assert pipeline.chunk_size(whole, 5, 2) == 8
  run = runner.begin(
    tiny_run.STAGE,
    0.0,
    {"text_emb": spread.put(emb[:2]), "text_mask": spread.put(mask[:2])},
    spread.put(keys(2)),
    None,
    layout=spread,
  )
  shapes = {part.data.shape for part in run.state.z.addressable_shards}
  assert shapes == {(1, 4, 16, 3)}


def test_rows_that_cannot_be_cut_are_refused():
  spread = layout("spatial")
  spread.check([tiny_run.STAGE])
  with pytest.raises(
    errors.BadInput, match="spatial=8 .* 12 rows of stage 'base'.* up to 4"
  ):
    spread.check([dataclasses.replace(tiny_run.STAGE, resolution=12)])


def test_an_encoder_lies_by_its_own_rules():
  spread = layout("all")
  for name, spec in {
    "layers/attention/query/kernel": PartitionSpec(None, "fsdp", "tensor"),
    "layers/attention/out/kernel": PartitionSpec(None, "tensor", "fsdp"),
    "layers/norm/scale": PartitionSpec(),
  }.items():
    assert spread.encoder(name, (1, 64, 64)).spec == spec


def test_a_layout_says_where_its_parameters_lie():
  params = tiny_cascade.random_params(stage())
  told = layout("all").describe(params)
  assert "fsdp 2, spatial 2, tensor 2: 8 x" in told
  assert f"{len(tree.flatten(params))} parameters" in told
  assert "largest that is whole" in told
