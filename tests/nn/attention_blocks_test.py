"""Attention over pixels and text: masks, order, equations, backends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.nn import attention_blocks, param_init
from tests import numpy_layers, random_params

SOURCES = {
  "both": {},
  "pixels": {"text_cross_attention": False},
  "text": {"self_attention": False},
}
HEADS, L = 2, 5


def example(dtype=np.float32, size=(3, 4), **options):
  """The block, its parameters, and inputs of 5 and 2 real tokens."""
  module = attention_blocks.AttentionBlock(HEADS, dtype=dtype, **options)
  x = random_params.normal(2, *size, 8, dtype=dtype)
  text = random_params.normal(2, L, 6, seed=1, dtype=dtype)
  inputs = (x, text, random_params.mask(5, 2, total=L))
  return module, random_params.params(module, *inputs, dtype=dtype), inputs


def expected_output(params, x, text, mask, options):
  """The module docstring in numpy."""
  b, h, w, c = x.shape
  inner = c * options.get("inner_mult", 1)

  def heads(name, tokens):
    y = numpy_layers.dense(params[name], tokens)
    return y.reshape(b, -1, HEADS, inner // HEADS)

  pixels = numpy_layers.group_norm(params["norm"], x, 8).reshape(b, h * w, c)
  sources = []
  if options.get("self_attention", True):
    every = np.ones((b, h * w), bool)
    sources.append((heads("key", pixels), heads("value", pixels), every))
  if options.get("text_cross_attention", True):
    if not options.get("normed"):
      text = numpy_layers.layer_norm(params["text_norm"], text)
    sources.append((heads("text_key", text), heads("text_value", text), mask))
  key, value, mask = (
    np.concatenate(parts, axis=1) for parts in zip(*sources, strict=True)
  )
  out = numpy_layers.attention(heads("query", pixels), key, value, mask)
  out = numpy_layers.dense(params["out"], out.reshape(b, h * w, inner))
  return x + out.reshape(x.shape)


def test_a_new_block_is_the_identity():
  module, _, inputs = example()
  params = param_init.init_params(module, jax.random.key(0), inputs)
  got = jax.jit(module.apply)({"params": params}, *inputs)
  np.testing.assert_array_equal(got, inputs[0])


@pytest.mark.parametrize("sources", ["both", "text"])
def test_padded_tokens_have_no_influence_and_no_gradient(sources):
  module, params, (x, text, _) = example(**SOURCES[sources])
  mask = random_params.mask(3, 0, total=L)  # the second row has no token

  @jax.jit
  def run(text):
    def loss(params, x, text):
      out = module.apply({"params": params}, x, text, mask)
      return jnp.cos(out).sum(), out

    grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(
      params, x, text
    )
    return out, grads

  out, grads = run(text)
  changed, _ = run(jnp.where(mask[:, :, None], text, 77))
  np.testing.assert_array_equal(out, changed)
  assert (grads[2][~mask] == 0).all() and (grads[2][mask] != 0).all()
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  if sources == "text":  # nothing to attend to: the bias alone
    added = out[1] - x[1] - params["out"]["bias"][None, None]
    np.testing.assert_allclose(added, 0, atol=1e-6)


def test_pixels_have_no_places():
  module, params, (x, text, mask) = example()
  apply = jax.jit(lambda x: module.apply({"params": params}, x, text, mask))
  got = apply(x[:, ::-1, ::-1])
  np.testing.assert_allclose(got, apply(x)[:, ::-1, ::-1], atol=1e-5)
  assert np.abs(got - apply(x)).max() > 0.1


def test_tokens_have_no_order_and_examples_do_not_meet():
  module, params, (x, text, mask) = example()
  apply = jax.jit(lambda text: module.apply({"params": params}, x, text, mask))
  out = apply(text)
  turned = apply(text.at[0].set(text[0, ::-1]))
  np.testing.assert_allclose(turned, out, atol=1e-5)
  other = apply(text.at[1].set(text[1] ** 2))
  np.testing.assert_array_equal(other[0], out[0])
  assert np.abs(other[1] - out[1]).max() > 0.01


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("inner_mult", [1, 2])
def test_again_in_float64(sources, inner_mult, x64):
  options = SOURCES[sources] | {"inner_mult": inner_mult}
  module, params, inputs = example(np.float64, **options)
  got = jax.jit(module.apply)({"params": params}, *inputs)
  arrays = [np.asarray(array) for array in inputs]
  expected = expected_output(params, *arrays, options)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
  arrays[0] = arrays[0] + 1e-3 * arrays[0] ** 2
  other = expected_output(params, *arrays, options)
  assert np.abs(got - other).max() > 1e-5


@pytest.mark.parametrize(
  "sources, names",
  [
    ("both", {"key", "value", "text_norm", "text_key", "text_value"}),
    ("pixels", {"key", "value"}),
    ("text", {"text_norm", "text_key", "text_value"}),
  ],
)
def test_only_what_is_used_has_parameters(sources, names):
  _, params, _ = example(**SOURCES[sources])
  assert set(params) == names | {"norm", "query", "out"}


def test_backends_agree_where_there_are_many_pixels():
  size = (24, 24)  # more than one chunk of 512
  module, params, inputs = example(size=size)
  chunked, _, _ = example(size=size, backend="chunked")

  def gradient(module):
    def loss(params, x, text):
      out = module.apply({"params": params}, x, text, inputs[2])
      return jnp.cos(out).mean()

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return jax.tree.leaves(grad(params, *inputs[:2]))

  for one, other in zip(gradient(module), gradient(chunked), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_heads_must_divide_the_channels():
  x, text = jnp.ones((1, 2, 2, 8)), jnp.ones((1, L, 6))
  module = attention_blocks.AttentionBlock(3)
  with pytest.raises(errors.BadInput, match="8 attention channels .* by 3 hea"):
    jax.eval_shape(module.init, jax.random.key(0), x, text, text[..., 0] > 0)


def test_a_block_without_sources_is_refused():
  with pytest.raises(ValueError, match="needs pixels, text or both"):
    example(self_attention=False, text_cross_attention=False)


def test_a_group_norm_of_text_goes_over_all_tokens(x64):
  module, params, (x, text, mask) = example(np.float64, text_norm="group")
  got = jax.jit(module.apply)({"params": params}, x, text, mask)
  normed = numpy_layers.group_norm(
    params["text_norm"], np.asarray(text)[:, :, None], 6
  )[:, :, 0]
  arrays = (np.asarray(x), normed, np.asarray(mask))
  expected = expected_output(params, *arrays, {"normed": True})
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
