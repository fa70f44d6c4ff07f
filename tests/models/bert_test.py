"""BERT: masking, agreement with transformers' outputs, sizes."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.models import bert
from imagen_jax.weights import from_hf

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bert"


def small(**changes):
  fields = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
  }
  return bert.BertEncoder(**(fields | changes))


def inputs(length=8):
  ids = jax.random.randint(jax.random.key(1), (2, length), 1, 20)
  mask = jnp.arange(length)[None] < jnp.array([[5], [length]])
  return ids, mask


def init(module, ids, mask):
  params = jax.jit(module.init)(jax.random.key(0), ids, mask)["params"]
  # Biases start at zero and scales at one, which would hide mistakes.
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  moved = [
    leaf + 0.3 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(structure, moved)


@pytest.fixture(scope="module")
def case():
  module = small()
  ids, mask = inputs()
  params = init(module, ids, mask)
  apply = jax.jit(lambda p, i, m: module.apply({"params": p}, i, m))
  return module, params, ids, mask, apply


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "io.npz"))


def run_golden(golden, dtype, **changes):
  loaded = from_hf.load(GOLDEN, dtype=dtype, param_dtype=dtype)
  module = loaded.module.clone(**changes)
  apply = jax.jit(lambda p, i, m, s: module.apply({"params": p}, i, m, s))
  return np.asarray(
    apply(
      loaded.params,
      golden["input_ids"].astype(np.int32),
      golden["attention_mask"] > 0,
      golden["token_type_ids"].astype(np.int32),
    )
  )


def test_padding_does_not_change_real_tokens(case):
  _, params, ids, mask, apply = case
  other = jnp.where(mask, ids, (ids + 7) % 20)
  assert not jnp.array_equal(ids, other)
  a, b = apply(params, ids, mask), apply(params, other, mask)
  np.testing.assert_array_equal(a[mask], b[mask])
  # Without the mask they do change.
  everything = jnp.ones_like(mask)
  c, d = apply(params, ids, everything), apply(params, other, everything)
  assert jnp.abs(c - d)[mask].max() > 1e-2


def test_padding_has_no_gradient(case):
  module, params, ids, mask, _ = case
  ids = ids.at[0].set(jnp.where(mask[0], ids[0] % 19, 19))
  ids = ids.at[1].set(ids[1] % 19)  # word 19 stands on padding alone

  def loss(p):
    y = module.apply({"params": p}, ids, mask)
    return jnp.sum(jnp.where(mask[:, :, None], y, 0.0) ** 3)

  table = jax.jit(jax.grad(loss))(params)["embeddings"]["word"]["embedding"]
  assert not jnp.any(table[19])
  assert jnp.all(jnp.any(table[jnp.unique(ids[1])] != 0, axis=-1))


def test_more_padding_does_not_matter(case):
  _, params, ids, mask, apply = case
  longer = jnp.pad(ids, ((0, 0), (0, 4)))
  longer_mask = jnp.pad(mask, ((0, 0), (0, 4)))
  a = apply(params, ids, mask)[mask]
  b = apply(params, longer, longer_mask)[:, :8][mask]
  np.testing.assert_allclose(a, b, atol=5e-6, rtol=0)


def test_an_example_does_not_depend_on_its_batch(case):
  _, params, ids, mask, apply = case
  both = apply(params, ids, mask)
  alone = apply(params, ids[:1], mask[:1])
  np.testing.assert_allclose(both[:1], alone, atol=5e-6, rtol=0)


def test_no_token_at_all_stays_finite(case):
  _, params, ids, mask, apply = case
  assert jnp.all(jnp.isfinite(apply(params, ids, jnp.zeros_like(mask))))


def test_position_and_segment_matter(case):
  module, params, ids, mask, apply = case
  mask = jnp.ones_like(mask)
  swapped = ids.at[:, 0].set(ids[:, 1]).at[:, 1].set(ids[:, 0])
  last = apply(params, ids, mask)[:, -1] - apply(params, swapped, mask)[:, -1]
  assert jnp.abs(last).max() > 1e-3
  second = module.apply({"params": params}, ids, mask, jnp.ones_like(ids))
  assert jnp.abs(second - apply(params, ids, mask)).max() > 1e-2


def test_equals_transformers_in_float32(golden):
  out = run_golden(golden, np.float32)
  np.testing.assert_allclose(
    out, golden["last_hidden_state"], atol=5e-5, rtol=0
  )


def test_equals_transformers_in_float64(golden):
  with jax.enable_x64(True):
    out = run_golden(golden, np.float64)
  assert out.dtype == np.float64
  np.testing.assert_allclose(
    out, golden["last_hidden_state_f64"], atol=1e-8, rtol=0
  )


def test_the_limits_see_another_eps(golden):
  out = run_golden(golden, np.float32, layer_norm_eps=1e-5)
  assert np.abs(out - golden["last_hidden_state"]).max() > 1e-4
  with jax.enable_x64(True):
    out = run_golden(golden, np.float64, layer_norm_eps=1e-7)
  assert np.abs(out - golden["last_hidden_state_f64"]).max() > 1e-7


def test_the_float32_limit_sees_another_gelu(golden, monkeypatch):
  exact = jax.nn.gelu
  monkeypatch.setattr(jax.nn, "gelu", lambda x, approximate: exact(x))
  out = run_golden(golden, np.float32)
  assert np.abs(out - golden["last_hidden_state"]).max() > 1e-4


def test_bfloat16_is_near(golden):
  out = run_golden(golden, jnp.bfloat16)
  assert out.dtype == jnp.bfloat16
  expected = golden["last_hidden_state"]
  error = out.astype(np.float32) - expected
  relative = np.sqrt(np.mean(error**2) / np.mean(expected**2))
  assert 1e-4 < relative < 0.03


def test_jit_equals_no_jit(case):
  module, params, ids, mask, apply = case
  eager = module.apply({"params": params}, ids, mask)
  np.testing.assert_allclose(eager, apply(params, ids, mask), atol=5e-6, rtol=0)


def test_too_many_tokens_are_refused():
  ids, mask = inputs(13)
  with pytest.raises(errors.BadInput, match=r"13 tokens.*12 positions"):
    jax.eval_shape(small().init, jax.random.key(0), ids, mask)


def test_heads_must_divide_the_width():
  ids, mask = inputs()
  module = small(num_attention_heads=3)
  with pytest.raises(errors.BadInput, match=r"16 is not divisible.* 3"):
    jax.eval_shape(module.init, jax.random.key(0), ids, mask)
