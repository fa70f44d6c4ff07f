"""T5: masking, position, the equations in numpy, transformers' outputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.models import t5
from imagen_jax.weights import from_hf
from tests import random_params

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"
KINDS = [("gated-gelu", False), ("relu", False), ("gated-gelu", True)]


def small(**changes):
  fields = {
    "vocab_size": 20,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 3,
    "num_heads": 4,
  }
  return t5.T5Encoder(**(fields | changes))


def inputs(length=8):
  ids = jax.random.randint(jax.random.key(1), (2, length), 1, 20)
  return ids, random_params.mask(5, length, total=length)


def runner(module):
  return jax.jit(lambda p, i, m: module.apply({"params": p}, i, m))


@pytest.fixture(scope="module")
def case():
  module = small()
  ids, mask = inputs()
  params = random_params.params(module, ids, mask)
  return module, params, ids, mask, runner(module)


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "text_encoder_io.npz"))


def run_golden(golden, dtype, *, prefix="", folder="text_encoder", **changes):
  loaded = from_hf.load(GOLDEN / folder, dtype=dtype, param_dtype=dtype)
  return np.asarray(
    runner(loaded.module.clone(**changes))(
      loaded.params,
      golden[f"{prefix}input_ids"].astype(np.int32),
      golden[f"{prefix}attention_mask"] > 0,
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

  table = jax.jit(jax.grad(loss))(params)["token_embedder"]["embedding"]
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


def test_order_matters_and_absolute_position_does_not(case):
  _, params, ids, _, apply = case
  everything = jnp.ones_like(ids, bool)
  turned = apply(params, ids[:, ::-1], everything)[:, ::-1]
  assert jnp.abs(turned - apply(params, ids, everything)).max() > 1e-2
  # Padding in front moves every token, and no distance between them.
  front = jnp.pad(ids, ((0, 0), (3, 0)))
  mask = jnp.pad(everything, ((0, 0), (3, 0)))
  moved = apply(params, front, mask)[:, 3:]
  still = apply(params, ids, everything)
  np.testing.assert_allclose(moved, still, atol=5e-6, rtol=0)


@pytest.mark.parametrize("x64", [False, True])
def test_buckets_equal_transformers(x64):
  golden = np.load(GOLDEN / "t5_relative_buckets.npz")
  position, expected = golden["relative_position"], golden["bucket"]
  assert position.min() == -300 and position.max() == 300
  with jax.enable_x64(x64):
    table = t5.buckets(301)
  # Row 0 sees what follows, the last row what went before.
  np.testing.assert_array_equal(table[0], expected[position >= 0])
  np.testing.assert_array_equal(table[-1], expected[position <= 0])
  # Only the distance counts.
  np.testing.assert_array_equal(table[1:, 1:], table[:-1, :-1])


def test_buckets_of_the_paper():
  near = {0: 0, 1: 17, 7: 23, 8: 24, 12: 25, 46: 29, 64: 30, 91: 31}
  assert {n: int(t5.buckets(92)[0, n]) for n in near} == near
  # Other edges give other buckets.
  assert t5.buckets(92, max_distance=256)[0, 91] != 31


def rms(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def layer(p, i, x, table, mask, n, k):
  """A layer once more: in float64 numpy, one head at a time."""
  p = jax.tree.map(lambda leaf: np.float64(leaf[i]), p)
  b, length, _ = x.shape
  y = rms(x, p["attention_norm"]["scale"])
  q, key, v = (
    (y @ p["attention"][name]["kernel"]).reshape(b, length, n, k)
    for name in ("query", "key", "value")
  )
  out = np.zeros((b, length, n, k))
  for head in range(n):
    logits = q[:, :, head] @ key[:, :, head].transpose(0, 2, 1)
    logits = logits + table[t5.buckets(length), head]
    logits = np.where(mask[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out[:, :, head] = weights @ v[:, :, head]
  x = x + out.reshape(b, length, n * k) @ p["attention"]["out"]["kernel"]
  y = rms(x, p["mlp_norm"]["scale"])
  mlp = {name: leaf["kernel"] for name, leaf in p["mlp"].items()}
  if "wi" in mlp:
    return x + np.maximum(y @ mlp["wi"], 0) @ mlp["wo"]
  g = y @ mlp["wi_0"]
  g = 0.5 * g * (1 + np.tanh((2 / np.pi) ** 0.5 * (g + 0.044715 * g**3)))
  return x + (g * (y @ mlp["wi_1"])) @ mlp["wo"]


def reference(module, params, ids, mask):
  params = dict(params)
  layers = dict(params["layers"])
  tables = layers.pop("relative_bias", None)
  x = np.float64(params["token_embedder"]["embedding"])[ids]
  for i in range(module.num_layers):
    table = tables["table"][i] if tables else params["relative_bias"]["table"]
    n, k = module.num_heads, module.d_kv
    x = layer(layers, i, x, np.float64(table), np.asarray(mask), n, k)
  return rms(x, np.float64(params["final_norm"]["scale"]))


@pytest.mark.parametrize(("feed_forward", "per_layer_bias"), KINDS)
def test_equals_the_equations(x64, feed_forward, per_layer_bias):
  module = small(
    feed_forward=feed_forward,
    per_layer_bias=per_layer_bias,
    dtype=jnp.float64,
  )
  ids, mask = inputs()
  params = random_params.params(module, ids, mask, dtype=np.float64)
  out = runner(module)(params, ids, mask)
  assert out.dtype == np.float64
  expected = reference(module, params, ids, mask)
  np.testing.assert_allclose(out, expected, atol=1e-12, rtol=0)
  # The limit sees a bias table of another layer.
  if per_layer_bias:
    tables = params["layers"]["relative_bias"]
    tables["table"] = tables["table"][::-1]
    out = runner(module)(params, ids, mask)
    assert np.abs(out - expected).max() > 1e-3


@pytest.mark.parametrize("prefix", ["", "long_"])
def test_equals_transformers_in_float32(golden, prefix):
  out = run_golden(golden, np.float32, prefix=prefix)
  expected = golden[f"{prefix}last_hidden_state"]
  np.testing.assert_allclose(out, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "long_"])
def test_equals_transformers_in_float64(x64, golden, prefix):
  out = run_golden(golden, np.float64, prefix=prefix)
  assert out.dtype == np.float64
  expected = golden[f"{prefix}last_hidden_state_f64"]
  np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)


def test_equals_transformers_from_the_float16_layout():
  golden = dict(np.load(GOLDEN / "text_encoder_fp16" / "io.npz"))
  out = run_golden(golden, np.float32, folder="text_encoder_fp16")
  expected = golden["last_hidden_state_computed_in_float32"]
  np.testing.assert_allclose(out, expected, atol=5e-5, rtol=0)


def test_the_limits_see_another_eps_and_distance(golden):
  out = run_golden(golden, np.float32, layer_norm_epsilon=1e-3)
  assert np.abs(out - golden["last_hidden_state"]).max() > 1e-4
  out = run_golden(
    golden, np.float32, prefix="long_", relative_attention_max_distance=256
  )
  assert np.abs(out - golden["long_last_hidden_state"]).max() > 1e-3


def test_the_float32_limit_sees_another_gelu(golden, monkeypatch):
  tanh = jax.nn.gelu
  monkeypatch.setattr(
    t5.nn, "gelu", lambda x, approximate: tanh(x, approximate=False)
  )
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


def test_parameters_are_stacked():
  for per_layer_bias in (False, True):
    module = small(per_layer_bias=per_layer_bias)
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs())
    params = variables["params"]
    shapes = {leaf.shape[0] for leaf in jax.tree.leaves(params["layers"])}
    assert shapes == {3}
    assert params["layers"]["attention"]["out"]["kernel"].shape == (3, 24, 16)
    assert ("relative_bias" in params) != per_layer_bias
    assert ("relative_bias" in params["layers"]) == per_layer_bias


@pytest.mark.parametrize("field", ["feed_forward", "weights"])
def test_other_networks_are_refused(field):
  module = small()
  # Past the type checker, as a config would come.
  object.__setattr__(module, field, "other")
  with pytest.raises(errors.BadInput, match=f"{field} is 'other'; use one of"):
    module._check(8)


def test_no_tokens_are_refused():
  with pytest.raises(errors.BadInput, match="0 tokens"):
    jax.eval_shape(small().init, jax.random.key(0), *inputs(0))
