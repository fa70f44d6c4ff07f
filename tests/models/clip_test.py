"""CLIP text: causality, masking, agreement with transformers' outputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors, tree
from imagen_jax.models import clip
from imagen_jax.weights import hf_clip, readers, rules
from tests import numpy_layers, random_params

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip_text"
SPELLINGS = ("model.safetensors", "hub_names/model.safetensors")
END = 98  # of the golden vocabulary; padding too


def small(**changes):
  fields = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
  }
  return clip.ClipText(**(fields | changes))


def inputs(length=8):
  ids = jax.random.randint(jax.random.key(1), (2, length), 1, 20)
  return ids, random_params.mask(5, length, total=length)


def applied(module):
  return jax.jit(lambda p, i, m: module.apply({"params": p}, i, m))


@pytest.fixture(scope="module")
def case():
  module = small()
  ids, mask = inputs()
  params = random_params.params(module, ids, mask)
  return params, ids, mask, applied(module)


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "io.npz"))


def shapes_of(module):
  ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.bool_)
  made = jax.eval_shape(module.init, jax.random.key(0), ids, mask)["params"]
  return {n: leaf.shape for n, leaf in tree.flatten(made).items()}


def load_golden(name, dtype, *, folder=GOLDEN, **changes):
  config = readers.read_json(folder / "config.json")
  module = hf_clip.module(config, dtype=dtype).clone(**changes)
  tensors = readers.read_safetensors(folder / name).arrays
  flat = rules.apply(hf_clip.RULES, tensors, shapes_of(module))
  return module, tree.unflatten({n: a.astype(dtype) for n, a in flat.items()})


def run_golden(golden, dtype, name=SPELLINGS[0], mask=None, **changes):
  module, params = load_golden(name, dtype, **changes)
  ids = golden["input_ids"].astype(np.int32)
  mask = np.ones(ids.shape, np.bool_) if mask is None else mask
  return np.asarray(applied(module)(params, ids, mask))


def real(golden):
  """Up to and with the first end token; the longest text has none."""
  is_end = golden["input_ids"] == END
  return np.cumsum(is_end, axis=1) - is_end == 0


def test_a_token_sees_nothing_behind_it(case):
  params, _ids, mask, apply = case
  mask = jnp.ones_like(mask)

  def states(words):
    table = params["word"]["embedding"] + words
    changed = params | {"word": {"embedding": table}}
    return apply(changed, distinct, mask)[0].sum(axis=-1)

  # Each position has its own word, so a word's row is a position's input.
  distinct = jnp.arange(8)[None].repeat(2, axis=0)
  jacobian = jax.jacrev(states)(jnp.zeros((20, 16)))[:, :8]
  reads = jnp.any(jacobian != 0, axis=-1)
  np.testing.assert_array_equal(reads, np.tril(np.ones((8, 8), np.bool_)))


def test_padding_on_the_right_is_hidden_by_causality_alone(case):
  params, ids, mask, apply = case
  everything = jnp.ones_like(mask)
  a, b = apply(params, ids, mask), apply(params, ids, everything)
  np.testing.assert_array_equal(a[mask], b[mask])
  # Of the states of padding that is not so.
  assert jnp.abs(a - b)[~mask].max() > 1e-2


def test_padding_elsewhere_is_hidden_by_the_mask(case):
  params, ids, mask, apply = case
  mask = mask.at[:, 1].set(False)
  other = jnp.where(mask, ids, (ids + 7) % 20)
  a, b = apply(params, ids, mask), apply(params, other, mask)
  np.testing.assert_array_equal(a[mask], b[mask])
  everything = jnp.ones_like(mask)
  c, d = apply(params, ids, everything), apply(params, other, everything)
  assert jnp.abs(c - d)[mask].max() > 1e-2


def test_more_padding_does_not_matter(case):
  params, ids, mask, apply = case
  longer = jnp.pad(ids, ((0, 0), (0, 4)))
  longer_mask = jnp.pad(mask, ((0, 0), (0, 4)))
  a = apply(params, ids, mask)[mask]
  b = apply(params, longer, longer_mask)[:, :8][mask]
  np.testing.assert_allclose(a, b, atol=5e-6, rtol=0)


def test_an_example_does_not_depend_on_its_batch(case):
  params, ids, mask, apply = case
  both, alone = apply(params, ids, mask), apply(params, ids[:1], mask[:1])
  np.testing.assert_allclose(both[:1], alone, atol=5e-6, rtol=0)


def test_no_token_at_all_stays_finite(case):
  params, ids, mask, apply = case
  assert jnp.all(jnp.isfinite(apply(params, ids, jnp.zeros_like(mask))))


def test_one_layer_from_the_equations():
  with jax.enable_x64(True):
    module = small(num_hidden_layers=1, dtype=np.float64)
    ids, mask = inputs()
    params = random_params.params(module, ids, mask, dtype=np.float64)
    outputs = {
      output: np.asarray(
        applied(module.clone(output=output))(params, ids, mask)
      )
      for output in ("penultimate", "final")
    }

  def norm(p, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return y * p["scale"] + p["bias"]

  params = jax.tree.map(np.float64, params)
  layer = params["layer_0"]
  x = params["word"]["embedding"][np.asarray(ids)]
  x = x + params["position"]["embedding"][:8]
  np.testing.assert_allclose(outputs["penultimate"], x, atol=1e-14, rtol=0)
  y = norm(layer["attention_norm"], x)
  heads = {
    name: numpy_layers.dense(layer["attention"][name], y).reshape(2, 8, 4, 4)
    for name in ("query", "key", "value")
  }
  attended = np.zeros_like(x)
  for q in range(8):
    before = np.asarray(mask) & (np.arange(8) <= q)
    attended[:, q] = numpy_layers.attention(
      heads["query"][:, q : q + 1], heads["key"], heads["value"], before
    ).reshape(2, 16)
  x = x + numpy_layers.dense(layer["attention"]["out"], attended)
  y = numpy_layers.dense(layer["ffn_in"], norm(layer["ffn_norm"], x))
  x = x + numpy_layers.dense(layer["ffn_out"], y / (1 + np.exp(-1.702 * y)))
  expected = norm(params["norm"], x)
  np.testing.assert_allclose(outputs["final"], expected, atol=1e-12, rtol=0)
  assert np.abs(outputs["final"] - x).max() > 1e-2


@pytest.mark.parametrize("name", SPELLINGS)
def test_equals_transformers_in_float32(golden, name):
  out = run_golden(golden, np.float32, name)
  np.testing.assert_allclose(
    out, golden["last_hidden_state"], atol=5e-5, rtol=0
  )


@pytest.mark.parametrize("name", SPELLINGS)
def test_equals_transformers_in_float64(golden, name):
  with jax.enable_x64(True):
    out = run_golden(golden, np.float64, name)
  assert out.dtype == np.float64
  np.testing.assert_allclose(
    out, golden["last_hidden_state_f64"], atol=1e-8, rtol=0
  )


@pytest.mark.parametrize("name", SPELLINGS)
def test_penultimate_states_equal_transformers(golden, name):
  out = run_golden(golden, np.float32, name, output="penultimate")
  expected = golden["penultimate_hidden_state"]
  np.testing.assert_allclose(out, expected, atol=5e-5, rtol=0)
  assert np.abs(out - golden["last_hidden_state"]).max() > 0.1


def test_penultimate_states_are_what_the_last_layer_reads(golden):
  # The golden penultimate states are in float32 only. What is left to do to
  # them in float64, the last layer and the norm, gives the golden float64 end.
  with jax.enable_x64(True):
    module, params = load_golden(SPELLINGS[0], np.float64)
    before = run_golden(golden, np.float64, output="penultimate")
    length = before.shape[1]
    causal = np.tril(np.ones((3, length, length), np.bool_))
    layer = clip.ClipLayer(
      module.num_attention_heads,
      module.intermediate_size,
      module.hidden_act,
      module.layer_norm_eps,
      np.float64,
    )
    x = layer.apply(
      {"params": params["layer_2"]}, jnp.asarray(before), jnp.asarray(causal)
    )
  assert before.dtype == np.float64
  x = np.asarray(x)
  centred = x - x.mean(axis=-1, keepdims=True)
  y = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
  y = y * params["norm"]["scale"] + params["norm"]["bias"]
  np.testing.assert_allclose(
    y, golden["last_hidden_state_f64"], atol=1e-8, rtol=0
  )
  np.testing.assert_allclose(
    before, golden["penultimate_hidden_state"], atol=5e-5, rtol=0
  )


@pytest.mark.parametrize("output", ["final", "penultimate"])
def test_real_tokens_equal_transformers_under_a_mask(golden, output):
  # The golden states were computed without a mask.
  mask = real(golden)
  assert mask.sum(axis=1).tolist() == [7, 32, 77]
  out = run_golden(golden, np.float32, mask=mask, output=output)
  key = {"final": "last", "penultimate": "penultimate"}[output]
  difference = np.abs(out - golden[f"{key}_hidden_state"])
  assert difference[mask].max() < 5e-5
  assert difference[~mask].max() > 1e-2


def test_the_float32_limit_sees_another_activation(golden):
  out = run_golden(golden, np.float32, hidden_act="gelu")
  assert np.abs(out - golden["last_hidden_state"]).max() > 1e-3


def test_the_limits_see_another_eps(golden):
  out = run_golden(golden, np.float32, layer_norm_eps=1e-3)
  assert np.abs(out - golden["last_hidden_state"]).max() > 1e-4
  with jax.enable_x64(True):
    out = run_golden(golden, np.float64, layer_norm_eps=1.1e-5)
  assert np.abs(out - golden["last_hidden_state_f64"]).max() > 1e-7


def test_gelu_is_the_exact_one():
  x = jnp.linspace(-4, 4, 9)
  exact = jax.nn.gelu(x, approximate=False)
  np.testing.assert_array_equal(clip.ACTIVATIONS["gelu"](x), exact)
  assert jnp.abs(clip.quick_gelu(x) - exact).max() > 1e-2


def test_bfloat16_is_near(golden):
  out = run_golden(golden, jnp.bfloat16)
  assert out.dtype == jnp.bfloat16
  expected = golden["last_hidden_state"]
  error = out.astype(np.float32) - expected
  relative = np.sqrt(np.mean(error**2) / np.mean(expected**2))
  assert 1e-4 < relative < 0.03


def test_both_outputs_have_the_same_parameters():
  ids, mask = inputs()
  key = jax.random.key(0)
  final = jax.eval_shape(small().init, key, ids, mask)
  penultimate = small(output="penultimate")
  assert final == jax.eval_shape(penultimate.init, key, ids, mask)


def test_vit_l_14_has_the_published_size():
  module = clip.ClipText(49408, 768, 12, 12, 3072)
  ids, mask = jnp.zeros((1, 77), jnp.int32), jnp.ones((1, 77), jnp.bool_)
  made = jax.eval_shape(module.init, jax.random.key(0), ids, mask)
  assert sum(leaf.size for leaf in jax.tree.leaves(made)) == 123_060_480


def test_jit_equals_no_jit(case):
  params, ids, mask, apply = case
  eager = small().apply({"params": params}, ids, mask)
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
