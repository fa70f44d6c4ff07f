"""The text encoder cut over a mesh: its rules, its values, what it gathers."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from imagen_jax import build_plan, build_plan_encoder, build_plan_jobs
from imagen_jax.core import errors, tree
from imagen_jax.models import t5, text_variants
from imagen_jax.plan import hlo
from imagen_jax.text import encoders
from imagen_jax.train import mesh as mesh_lib
from imagen_jax.train import sharding
from tests import random_params

NO_COMPILER = importlib.util.find_spec("libtpu") is None
# Wide enough that its matrices are cut.
TINY = t5.T5Encoder(
  vocab_size=512, d_model=256, d_kv=64, d_ff=512, num_layers=3, num_heads=4
)


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make(mesh_lib.MeshSizes(data=2, fsdp=2, tensor=2))


def config(precision="float32", **mesh):
  cfg = demo.get_config("base")
  with cfg.unlocked():
    cfg.text.update({"encoder": "tiny", "max_length": 16})
    cfg.text.precision = precision
    cfg.train.batch_size = 16
    cfg.mesh.update(mesh or {"data": 1, "fsdp": 4})
  return cfg.lock()


@pytest.fixture
def tiny(monkeypatch):
  """An encoder whose name is tiny."""
  size = text_variants.Variant(
    t5.T5Encoder,
    {
      name: getattr(TINY, name)
      for name in (
        *("vocab_size", "d_model", "d_kv", "d_ff"),
        *("num_layers", "num_heads"),
      )
    },
    0,
  )
  monkeypatch.setitem(text_variants.VARIANTS, "tiny", size)


@pytest.mark.parametrize(
  ("name", "precision"),
  [
    ("t5_v1_1_xxl", "bfloat16"),
    ("t5_v1_1_xxl", "int8"),
    ("t5_11b", "float32"),
    ("bert_base", "bfloat16"),
    ("clip_vit_l_14", "float32"),
  ],
)
def test_the_rules_cut_all_that_is_large(mesh, name, precision):
  module = encoders.network(name, precision=precision)
  shapes = build_plan_encoder.shapes(module, precision)
  rows = sharding.plan(shapes, mesh, sharding.ENCODER_RULES)
  assert {row.name for row in rows} == tree.flatten(shapes).keys()
  whole = sum(math.prod(row.shape) for row in rows if not any(row.spec))
  assert whole < 2e-3 * tree.count(shapes)
  specs = {row.name: row.spec for row in rows}
  for row in rows:  # what a column leaves cut, the row after it takes cut
    if row.name.endswith(("query/kernel", "query/kernel_int8")):
      after = specs[row.name.replace("query", "out")]
      assert (row.spec[-1], after[-2]) == ("tensor", "tensor")
  count = build_plan_encoder.encoder_parameters(module)
  assert count == text_variants.VARIANTS[name].parameters


def test_cut_it_computes_what_whole_it_computes(mesh):
  ids = np.asarray(jax.random.randint(jax.random.key(1), (8, 16), 0, 512))
  mask = np.arange(16)[None] < np.arange(9, 17)[:, None]
  shapes = build_plan_encoder.shapes(TINY, "float32")
  params = random_params.params(TINY, ids, mask)
  params = jax.tree.map(lambda x: 0.2 * x, params)  # no softmax is one-hot
  expected = jax.jit(encoders.states, static_argnums=0)(TINY, params, ids, mask)
  places = build_plan_encoder.placed(shapes, mesh)
  abstract = sharding.abstract(shapes, places)
  encode = jax.jit(build_plan_encoder.program(TINY, abstract))
  inputs = sharding.put((ids, mask), (sharding.batch_sharding(mesh, 2),) * 2)
  found = encode(sharding.put(params, places), *inputs)
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)
  # A different layer's part would be seen.
  moved = jax.tree.map(lambda x: x, params)
  moved["layers"] = jax.tree.map(lambda x: x[::-1], params["layers"])
  other = encode(sharding.put(moved, places), *inputs)
  assert np.abs(other - found).max() > 1e-2


def test_parameters_are_gathered_and_no_activation(tiny, monkeypatch):
  """As the partitioner of this machine says, for eight of its devices."""
  monkeypatch.setattr(build_plan_jobs, "devices", lambda _: jax.devices())
  job = build_plan_encoder.make(config(data=2, fsdp=4), "v5e:2x4")
  found = hlo.collectives(job.lower(*job.arguments).compile().as_text())
  gathers = [one for one in found if one.kind == "all-gather"]
  assert len(gathers) >= 7 and not hlo.activation_gathers(found, job.gathered)
  assert all(len(one.group) == 4 for one in gathers)
  # Without the hook that gathers a layer, activations travel.
  left = jax.jit(lambda p, *a: encoders.states(TINY, p, *a))
  text = left.lower(*job.arguments).compile().as_text()
  assert hlo.activation_gathers(hlo.collectives(text), job.gathered)


@pytest.mark.parametrize(
  ("precision", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)]
)
def test_shapes_say_what_a_chip_holds(tiny, precision, size):
  found = build_plan.facts(config(precision), "gpu:4xh200", program="encode")
  module = encoders.network("tiny", precision=precision)
  assert found.parameters == build_plan_encoder.encoder_parameters(module)
  # Scales of int8, norms and the table of distances are whole.
  cut = size * found.parameters / 4
  assert cut < found.held["params"] < 1.07 * cut
  assert found.held["captions"] == 16 * 16 * (4 + 1) / 4
  # Two for each multiply-add of the matrices, and 2 l l d for each of two
  # products of attention.
  matrices = 3 * (4 * 256 * 256 + 3 * 256 * 512)
  attention = 3 * 2 * 2 * 16 * 16 * 256
  assert found.model_flops == 2 * 16 * matrices + attention
  assert found.batch_size == 16
  more = build_plan.facts(
    config(precision), "gpu:4xh200", program="encode", sample_batch=8
  )
  assert more.batch_size == 8


def test_a_network_needs_no_weights():
  assert encoders.network("t5_v1_1_small").dtype == jnp.float32
  assert encoders.network("t5_v1_1_small", precision="int8").weights == "int8"
  with pytest.raises(errors.BadInput, match="unknown text encoder 't5_xxll'"):
    encoders.network("t5_xxll")
  with pytest.raises(errors.BadInput, match="bert_base has no int8 weights"):
    encoders.network("bert_base", precision="int8")


@pytest.mark.tpu_compiler
@pytest.mark.skipif(NO_COMPILER, reason='needs pip install "imagen_jax[plan]"')
def test_a_tpu_gathers_each_layer_once(tiny):
  found = build_plan.facts(config("bfloat16"), "v5e:2x2", program="encode")
  one = found.compiled
  (row,) = one.exchanges
  assert (row.kind, row.axes) == ("all-gather", "fsdp")
  assert row.bytes == pytest.approx(2 * found.parameters, rel=0.02)
  assert not one.activation_gathers
  assert one.argument_bytes == pytest.approx(sum(found.held.values()), rel=0.05)
  model = found.model_flops * found.batch_size / 4
  assert 0.9 * model < one.flops < 2 * model
