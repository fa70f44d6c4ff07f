"""Adapters: what they leave alone, what they learn, and where they fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from imagen_jax import build
from imagen_jax.cascade import folder
from imagen_jax.cascade import stage as stage_lib
from imagen_jax.core import errors, tree
from imagen_jax.nn import convolution
from imagen_jax.train import lora
from imagen_jax.train import state as state_lib
from tests import tiny_cascade
from tests.train import tiny_run

STAGE = tiny_run.STAGE
KERNELS = (".*/kernel",)
KEY = jax.random.key(3)
RANK, ALPHA = 2, 6.0
INFOS = {info.name: info for info in tiny_cascade.infos(8, "none")}


@pytest.fixture(scope="module")
def base():
  """Of the smallest stage, with no kernel at zero."""
  return jax.tree.map(jnp.asarray, tiny_cascade.random_params(STAGE))


@pytest.fixture(scope="module")
def batch():
  made = next(tiny_run.Noise().batches(0))
  return jax.tree.map(jnp.asarray, tiny_run.prepare(made))


def _new(params, rank=RANK, rules=KERNELS):
  return lora.create(params, KEY, rank=rank, rules=rules)


def _random(adapters):
  """As if trained: B is no longer zero."""
  draw = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), jnp.float32), adapters
  )


def _loss(adapters, base, batch):
  params = lora.apply(base, adapters, alpha=ALPHA)
  return stage_lib.loss(STAGE, params, batch, KEY).per_example.mean()


def test_new_adapters_change_nothing(base, batch):
  applied = lora.apply(base, _new(base), alpha=ALPHA)
  jax.tree.map(np.testing.assert_array_equal, applied, base)
  plain = stage_lib.loss(STAGE, base, batch, KEY).per_example.mean()
  assert _loss(_new(base), base, batch) == plain
  assert _loss(_random(_new(base)), base, batch) != plain


def test_only_adapters_have_gradients_and_optimizer_state(base, batch):
  adapters = _new(base)
  grads = jax.jit(jax.grad(_loss))(adapters, base, batch)
  assert jax.tree.structure(grads) == jax.tree.structure(adapters)
  for name, grad in tree.flatten(grads).items():
    # While B is zero, A does not matter.
    assert np.any(grad) == name.endswith("/b"), name
  state = state_lib.create(adapters, optax.adam(1e-2))
  moments = 2 * tree.count(adapters) + 1  # and a count
  assert tree.count(state.opt_state) == moments


def test_training_lowers_the_loss_and_leaves_the_base(base, batch):
  """A step as of `train/step.py`, with the base as an argument of its own."""
  rule = optax.adam(1e-2)

  @jax.jit
  def step(adapters, opt_state, base):
    loss, grads = jax.value_and_grad(_loss)(adapters, base, batch)
    updates, opt_state = rule.update(grads, opt_state)
    return optax.apply_updates(adapters, updates), opt_state, loss

  before = jax.tree.map(np.array, base)
  adapters = _new(base)
  opt_state, losses = rule.init(adapters), []
  for _ in range(100):
    adapters, opt_state, loss = step(adapters, opt_state, base)
    losses.append(float(loss))
  assert losses[-1] < 0.8 * losses[0]
  jax.tree.map(np.testing.assert_array_equal, base, before)
  merged = lora.merge(base, adapters, alpha=ALPHA)
  whole = stage_lib.loss(STAGE, merged, batch, KEY).per_example.mean()
  np.testing.assert_allclose(whole, _loss(adapters, base, batch), rtol=1e-5)


def test_a_kernel_is_w_plus_alpha_over_rank_a_b(base):
  adapters = _random(_new(base, rank=3))
  applied = lora.apply(base, adapters, alpha=ALPHA)
  for name in ("hidden", "head"):
    w, a, b = (
      np.asarray(x, np.float64)
      for x in (
        base[name]["kernel"],
        adapters[name]["kernel"]["a"],
        adapters[name]["kernel"]["b"],
      )
    )
    assert a.shape[1] == b.shape[0] == 3
    expected = w + ALPHA / 3 * a @ b
    np.testing.assert_allclose(applied[name]["kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(applied[name]["bias"], base[name]["bias"])


def test_of_a_convolution_it_is_a_narrow_one_and_a_product():
  draw = np.random.default_rng(0)
  kernel, x = (
    jnp.asarray(draw.normal(size=shape), jnp.float32)
    for shape in ((3, 3, 4, 6), (1, 5, 5, 4))
  )
  params = {"conv_0": {"kernel": kernel}}
  adapters = _random(_new(params))
  a, b = (adapters["conv_0"]["kernel"][n] for n in "ab")
  assert (a.shape, b.shape) == ((3, 3, 4, RANK), (RANK, 6))
  applied = lora.apply(params, adapters, alpha=ALPHA)["conv_0"]["kernel"]
  narrow = jnp.einsum("bhwr,ro->bhwo", convolution.conv(x, a), b)
  np.testing.assert_allclose(
    convolution.conv(x, applied),
    convolution.conv(x, kernel) + ALPHA / RANK * narrow,
    atol=1e-4,
  )


def test_a_has_the_variance_that_keeps_its_inputs():
  shapes = {"x": {"kernel": jax.ShapeDtypeStruct((400, 8), jnp.float32)}}
  a = lora.create(shapes, KEY, rank=50, rules=KERNELS)["x"]["kernel"]["a"]
  np.testing.assert_allclose(np.var(a), 1 / 400, rtol=0.05)


def test_jit_gives_the_same(base):
  adapters = _random(_new(base))
  jitted = jax.jit(lambda p, x: lora.apply(p, x, alpha=ALPHA))(base, adapters)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
    jitted,
    lora.apply(base, adapters, alpha=ALPHA),
  )


def test_parameters_keep_their_dtype(base):
  half = tree.cast(base, jnp.bfloat16)
  applied = lora.apply(half, _random(_new(base)), alpha=ALPHA)
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(applied))


@pytest.mark.parametrize("name", INFOS)
def test_the_rules_are_attention_and_text_of_both_networks(name):
  shapes = stage_lib.param_shapes(build.stage(INFOS[name].stage))
  adapters = jax.eval_shape(lambda key: lora.create(shapes, key, rank=4), KEY)
  adapted = {n.rpartition("/kernel/")[0] for n in tree.flatten(adapters)}
  assert adapted == {
    name.removesuffix("/kernel")
    for name in tree.flatten(shapes)
    if name.endswith("/kernel")
    and ("attention" in name or "pooling" in name or "text_proj" in name)
  }


def test_rules_that_match_nothing_or_no_kernel_are_refused(base):
  with pytest.raises(errors.BadInput, match=r"'query/kernel' matches no"):
    _new(base, rules=(*KERNELS, "query/kernel"))
  with pytest.raises(errors.BadInput, match=r"match head/bias, hidden/bias"):
    _new(base, rules=(".*",))
  with pytest.raises(errors.BadInput, match="match nothing"):
    _new(base, rules=())
  with pytest.raises(errors.BadInput, match="rank 0"):
    _new(base, rank=0)


def test_adapters_of_another_stage_are_refused(base):
  other = tiny_cascade.random_params(
    dataclasses.replace(STAGE, module=tiny_run.Pointwise(width=5))
  )
  with pytest.raises(errors.BadInput, match=r"2 adapters .*head/kernel \(5, 3"):
    lora.apply(base, _new(other), alpha=ALPHA)


def test_a_file_goes_with_its_base_alone(base, tmp_path):
  path, adapters = tmp_path / "x.safetensors", _random(_new(base))
  lora.save(path, adapters, alpha=ALPHA, base=base)
  loaded = lora.load(path, base=base)
  assert loaded.alpha == ALPHA
  jax.tree.map(np.testing.assert_array_equal, loaded.adapters, adapters)
  other = lora.apply(base, adapters, alpha=1e-3)
  with pytest.raises(errors.BadInput, match="they were trained on"):
    lora.load(path, base=other)


def test_a_base_and_its_export_are_the_same(base, tmp_path):
  lora.save(tmp_path / "x.safetensors", _new(base), alpha=ALPHA, base=base)
  exported = tmp_path / "base.safetensors"
  folder.save_stage(exported, base, INFOS["base"], dtype=jnp.bfloat16)
  read = folder.load_params(exported)
  assert np.any(read["head"]["kernel"] != base["head"]["kernel"])
  lora.load(tmp_path / "x.safetensors", base=read)


def test_a_stage_file_is_no_adapter(base, tmp_path):
  path = tmp_path / "base.safetensors"
  folder.save_stage(path, base, INFOS["base"], dtype=jnp.float32)
  with pytest.raises(errors.BadInput, match="'imagen_jax stage' version 1"):
    lora.load(path, base=base)


def test_merged_weights_are_a_stage_to_sample_from(tmp_path):
  stage = build.stage(INFOS["base"].stage)
  params = tiny_cascade.random_params(stage)
  adapters = _random(lora.create(params, KEY, rank=RANK))
  merged = lora.merge(params, adapters, alpha=ALPHA)
  paths = [tmp_path / f"{name}.safetensors" for name in INFOS]
  folder.save_stage(paths[0], merged, INFOS["base"], dtype=jnp.float32)
  sr = tiny_cascade.random_params(build.stage(INFOS["sr"].stage))
  folder.save_stage(paths[1], sr, INFOS["sr"], dtype=jnp.float32)
  folder.write_manifest(tmp_path, folder.from_files(paths))
  entry = folder.read(tmp_path).stages[0]
  read = folder.load_params(entry.path)
  assert tree.diff(read, stage_lib.param_shapes(stage)) == ""
  jax.tree.map(np.testing.assert_array_equal, read, merged)


def test_an_evaluator_sees_the_whole_stage(base, tmp_path):
  adapters = _random(_new(base))
  state = state_lib.create(adapters, optax.sgd(1.0))
  seen = []

  @dataclasses.dataclass
  class Look:
    every: int = 7

    def __call__(self, state, step, workdir):
      seen.append(state)
      return {"step": float(step)}

  look = lora.WithBase(Look(), base, ALPHA)
  assert look.every == 7 and look(state, 5, epath.Path(tmp_path)) == {
    "step": 5.0
  }
  expected = lora.apply(base, adapters, alpha=ALPHA)
  for params in (seen[0].params, seen[0].ema_params):
    jax.tree.map(np.testing.assert_array_equal, params, expected)
