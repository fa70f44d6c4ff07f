"""CombineEmbs: padding, equations, and the checks at the door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.nn import conditioning
from tests import numpy_layers, random_params

E, C, WIDTH, L = 10, 8, 6, 4


def module(**options):
  return conditioning.CombineEmbs(E, C, sinusoid_dim=4, **options)


def inputs(dtype=np.float32):
  """logsnr, text_emb, a mask of 4 and 0 real tokens, aug_level."""
  return (
    jnp.asarray([2.0, -3.0], dtype),
    random_params.normal(2, L, WIDTH, dtype=dtype),
    random_params.mask(4, 0, total=L),
    jnp.asarray([0.1, 0.4], dtype),
  )


@pytest.fixture(scope="module")
def apply():
  params = random_params.params(module(), *inputs())
  return jax.jit(lambda *given: module().apply({"params": params}, *given))


def test_each_condition_moves_its_own_example(apply):
  logsnr, text_emb, mask, aug_level = inputs()
  before = apply(logsnr, text_emb, mask, aug_level)
  for changed in (
    (logsnr.at[0].add(1), text_emb, mask, aug_level),
    (logsnr, text_emb.at[0, 1].multiply(-1), mask, aug_level),
    (logsnr, text_emb, mask.at[0, 1].set(False), aug_level),
    (logsnr, text_emb, mask, aug_level.at[0].add(0.1)),
  ):
    after = apply(*changed)
    assert np.abs(after.emb[0] - before.emb[0]).max() > 1e-3
    np.testing.assert_array_equal(after.emb[1], before.emb[1])


def test_nothing_in_the_padding_reaches_the_result(apply):
  logsnr, text_emb, mask, aug_level = inputs()
  before = apply(logsnr, text_emb, mask, aug_level)
  after = apply(logsnr, text_emb.at[1].set(jnp.nan), mask, aug_level)
  np.testing.assert_array_equal(after.emb, before.emb)
  np.testing.assert_array_equal(after.text, before.text)
  assert jnp.isfinite(after.emb).all()


def test_zero_text_is_a_learned_constant(apply):
  """The unconditional branch: zeros, with the mask as it was."""
  logsnr, text_emb, _, aug_level = inputs()
  mask = random_params.mask(4, 2, total=L)
  tokens = apply(logsnr, jnp.zeros_like(text_emb), mask, aug_level).text
  np.testing.assert_array_equal(
    tokens, np.broadcast_to(tokens[:1, :1], tokens.shape)
  )
  assert jnp.abs(tokens).max() > 0.1


def test_again_in_float64(x64):
  combine = module(feature_pooling_type="mean", dtype=jnp.float64)
  given = inputs(np.float64)
  params = random_params.params(combine, *given, dtype=np.float64)
  got = jax.jit(combine.apply)({"params": params}, *given)
  logsnr, text_emb, mask, aug_level = (np.asarray(array) for array in given)

  def sinusoid(unit):
    angles = np.outer(1000 * unit, [1, 1e-4])
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

  text = np.where(mask[:, :, None], text_emb, 0)
  text = numpy_layers.layer_norm(params["text_norm"], text)
  text = numpy_layers.dense(params["text_projection"], text)
  means = np.stack([text[0].mean(axis=0), np.zeros(C)])
  pooled = numpy_layers.layer_norm(params["text_pooling"]["norm"], means)
  unit = np.arctan(np.exp(-logsnr / 2)) * 2 / np.pi
  emb = numpy_layers.mlp(params["time_mlp"], sinusoid(unit))
  emb += numpy_layers.mlp(params["text_mlp"], pooled)
  emb += numpy_layers.mlp(params["aug_level_mlp"], sinusoid(aug_level))
  np.testing.assert_allclose(got.text, text, rtol=0, atol=1e-11)
  expected = numpy_layers.swish(emb)
  np.testing.assert_allclose(got.emb, expected, rtol=0, atol=1e-10)


def test_aug_level_has_an_mlp_where_it_is_given():
  *three, aug_level = inputs()
  without = random_params.params(module(), *three)
  there = random_params.params(module(), *three, aug_level)
  assert set(there) - set(without) == {"aug_level_mlp"}


def test_shapes_and_dtypes():
  half = module(dtype=jnp.bfloat16)
  params = jax.eval_shape(half.init, jax.random.key(0), *inputs())
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
  out = jax.eval_shape(half.apply, params, *inputs())
  assert out.emb.shape == (2, E) and out.text.shape == (2, L, C)
  assert out.emb.dtype == out.text.dtype == jnp.bfloat16


def test_time_is_not_rounded_to_the_compute_dtype():
  """1000 u turns a bfloat16 sinusoid into noise."""
  half = module(dtype=jnp.bfloat16)
  params = random_params.params(module(), *inputs())
  one, other = (
    jax.jit(m.apply)({"params": params}, *inputs()).emb
    for m in (half, module())
  )
  np.testing.assert_allclose(np.float32(one), other, atol=0.1)


def test_sizes_that_divide_pass():
  conditioning.check_size((32, 48), (16, 16))
  conditioning.check_size((5, 8), (1, 8))


@pytest.mark.parametrize(
  "size, message",
  [
    ((60, 64), "image height 60 is not divisible by 16; use 48 or 64"),
    ((64, 8), "image width 8 is not divisible by 16; use 16"),
    ((0, 64), "image height 0 is not divisible by 16; use 16"),
  ],
)
def test_other_sizes_name_both_numbers(size, message):
  with pytest.raises(errors.BadInput, match=message):
    conditioning.check_size(size, (16, 16))


@pytest.mark.parametrize(
  "text_emb, text_mask, message",
  [
    ((2, 8), (2, 8), r"text_emb has shape \(2, 8\), expected \(2, tokens, "),
    ((3, 4, 8), (3, 4), r"text_emb has shape \(3, 4, 8\), expected \(2, tok"),
    ((2, 4, 8), (2, 5), r"text_mask has shape \(2, 5\), expected \(2, 4\)"),
    ((2, 4, 8), (2,), r"text_mask has shape \(2,\), expected \(2, 4\)"),
  ],
)
def test_text_of_the_wrong_shape_is_named(text_emb, text_mask, message):
  conditioning.check_text(2, (2, 4, 8), (2, 4))
  with pytest.raises(errors.BadInput, match=message):
    conditioning.check_text(2, text_emb, text_mask)


def test_low_resolution_comes_whole_or_not_at_all():
  image, level = jnp.ones((1, 4, 4, 3)), jnp.ones(1)
  conditioning.check_low_resolution(True, image, level)
  conditioning.check_low_resolution(False, None, None)
  for given, named in (((None, None), "neither"), ((image, None), "x_lr")):
    with pytest.raises(errors.BadInput, match=f"needs x_lr .* given .*{named}"):
      conditioning.check_low_resolution(True, *given)
  with pytest.raises(errors.BadInput, match="takes no low-res.*aug_level"):
    conditioning.check_low_resolution(False, None, level)
